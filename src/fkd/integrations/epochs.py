"""The number of a pass, told to everything in a data loader that depends on it."""

from collections.abc import Iterator
from typing import Any

_INNER = ("dataset", "sampler", "batch_sampler", "loader", "base_dataloader")


def set_epoch(loader: Any, epoch: int) -> None:
    """Tell a loader that pass number `epoch`, from 0, comes next.

    The data set then gives its next crops, and a distributed sampler another order. Loaders of
    torch, timm (`PrefetchLoader`) and accelerate hold these one inside the other; all that have a
    `set_epoch` are told. To be called before the loader is iterated over.

    Neither torch nor timm tells the data set; accelerate does, but not beside a sampler that has a
    `set_epoch` of its own, and from 0 again where a run was resumed.

    Args:
        loader: any data loader over a `MultiCropDataset`, also wrapped.
        epoch: number of the pass; a run that is resumed counts on.

    Example:
        >>> from fkd import LabelStore, MultiCropDataset, collate_crops
        >>> from fkd.integrations.epochs import set_epoch
        >>> from torch.utils.data import DataLoader
        >>> dataset = MultiCropDataset("photos", "labels", crops_per_image=2, size=32)
        >>> loader = DataLoader(dataset, batch_size=5, shuffle=True, collate_fn=collate_crops)
        >>> set_epoch(loader, 3)
    """
    for part in _parts(loader, seen=set()):
        tell = getattr(part, "set_epoch", None)
        if callable(tell):
            tell(epoch)


def _parts(holder: Any, seen: set[int]) -> Iterator[Any]:
    """An object and what it holds, the outermost first: accelerate's loader tells some of them."""
    if holder is None or id(holder) in seen:
        return
    seen.add(id(holder))
    yield holder
    for name in _INNER:
        yield from _parts(getattr(holder, name, None), seen)
