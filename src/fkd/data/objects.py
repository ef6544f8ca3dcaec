"""Data set objects of PyTorch, torchvision, timm and Hugging Face as sources of encoded images.

What knows its files is read as files, under the keys that these have in a folder or an archive; the
images of all else are known by their positions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import ConcatDataset, IterableDataset, Subset

from fkd.data.arrays import ArraySource
from fkd.data.hf_datasets import dataset_kind, from_dataset
from fkd.data.path_sets import files_of
from fkd.data.timm_sets import from_timm, is_timm_dataset
from fkd.errors import ConfigError


def source_of(dataset: Any) -> Any:
    """The images of a data set object; the result is an `ImageSource`.

    A `torch.utils.data.Subset` keeps the keys of the whole, so labels of the whole fit it.

    Raises:
        ConfigError: the object is no map-style data set of images, or has none, or has transforms
            or a loader that would be skipped; a subset names an image twice.
    """
    whole, positions = _unwrap(dataset)
    if positions is not None and not positions:
        raise ConfigError(f"a Subset of {type(whole).__name__} names no image; give it some")
    kind = dataset_kind(whole)
    if kind is not None:
        return from_dataset(whole, kind, positions)
    _require_map_style(whole)
    if is_timm_dataset(whole):
        return from_timm(whole, positions)
    files = files_of(whole)
    source = ArraySource(whole, positions) if files is None else files.source(positions)
    if not len(source):
        raise ConfigError(f"the data set {type(whole).__name__} has no images; give another")
    return source


def _require_map_style(dataset: Any) -> None:
    """Refuse what has no images by position, or several data sets in one."""
    name = type(dataset).__name__
    if isinstance(dataset, IterableDataset):
        raise ConfigError(
            f"the data set {name} is iterable and has no images by position; give the folder, the "
            "archives or the map-style data set behind it"
        )
    if isinstance(dataset, ConcatDataset):
        raise ConfigError(
            "a ConcatDataset is several data sets in one; give one of them, or a text file of the "
            "paths of all images (images.format list)"
        )
    by_position = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if not by_position or isinstance(dataset, Mapping):
        raise ConfigError(
            f"a {name} is not a data set of images; give a folder, its ImageFolder, a map-style "
            "data set of PIL images, or an object with the methods of ImageSource"
        )


def _unwrap(dataset: Any) -> tuple[Any, Sequence[int] | None]:
    """The data set that subsets of subsets are of, and the positions in it, ascending."""
    positions: list[int] | None = None
    while isinstance(dataset, Subset):
        indices = [int(i) for i in dataset.indices]
        positions = indices if positions is None else [indices[i] for i in positions]
        dataset = dataset.dataset
    if positions is None:
        return dataset, None
    count = len(dataset)
    outside = [i for i in positions if not -count <= i < count]
    if outside:
        raise ConfigError(f"a Subset names image {outside[0]} of a data set of {count:,}")
    chosen = sorted({i % count for i in positions})
    if len(chosen) < len(positions):
        raise ConfigError(
            "a Subset names an image twice; an image is labeled once, so give each index once"
        )
    return dataset, chosen
