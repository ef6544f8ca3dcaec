"""Where images come from: one protocol in front of folders, Parquet files and data set objects.

A source returns encoded files by position, and a stable key for each. It decodes nothing; that is
`fkd.data.decode`.
"""

import os
import zlib
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from torch import Tensor

from fkd.checks import require_one_of
from fkd.crops.sampling import content_key
from fkd.data.arrays import ArraySource
from fkd.data.arrow import ArrowSource, is_saved_dataset
from fkd.data.decode import Decoder, decode_image
from fkd.data.folder import FolderLayout, scan_folder
from fkd.data.listing import Folder, read_tree
from fkd.data.lists import EXTENSIONS, ListSource
from fkd.data.numbered import Naming, NumberedSource, are_imagenet_ids
from fkd.data.objects import source_of
from fkd.data.parquet import ParquetSource
from fkd.data.parquet_files import choose_files, holds_images
from fkd.data.subset import named_part
from fkd.data.tars import TarSource
from fkd.errors import ConfigError
from fkd.userfiles import settle_paths

_FEW_IMAGES = 16  # examples of what Parquet files hold

SourceFormat = Literal[
    "auto", "folder", "classes", "flat", "parquet", "tar", "arrow", "list", "cifar10", "cifar100"
]


@runtime_checkable
class ImageSource(Protocol):
    """Encoded images by position, in strictly ascending bytewise order of their keys.

    A source of images with several classes each has besides an attribute `multi_label` that is true
    and a method `labels(i)`, see `fkd.data.class_sets`.

    Attributes:
        root: where the images are, for messages.
        class_names: names in the order of the labels, or None if images have no labels.
    """

    root: str
    class_names: list[str] | None

    def __len__(self) -> int: ...

    def key(self, i: int) -> bytes:
        """The stable identity of image `i`, such as its relative path."""
        ...

    def label(self, i: int) -> int:
        """The class of image `i`, -1 for none."""
        ...

    def name(self, i: int) -> str:
        """What messages call image `i`: printable, and enough to locate it."""
        ...

    def read(self, i: int) -> bytes:
        """The encoded image `i`; raises ImageError."""
        ...


@dataclass(frozen=True, kw_only=True)
class ImagesConfig:
    """Where the images are and how they are laid out.

    Attributes:
        root: a folder, or one Parquet file, tar archive, or text or CSV file of paths.
        format: auto is Parquet where there are such files of images, tar where there are archives
            and no images beside them, arrow where `datasets` saved a data set, list where the root
            is a .txt, .csv or .tsv of paths and classes, else folder; folder takes sub-folders as
            classes if they look like classes; classes takes them whatever they look like; flat has
            no classes; cifar10 and cifar100 are torchvision's.
        split: which part, where `root` holds several (train, validation, test).
        image_column: column of the encoded images (Parquet, arrow), or of their paths (list).
        label_column: column of the labels (Parquet, arrow, list); null for images without labels.
        download: download CIFAR if it is missing.
        classes: what class folders with numbers as names mean: names, or with by_number the ids of
            the classes, as in ImageNetV2. auto takes them for ids if they are all of 0 to 999.
        subset: a text file that names images, one path below `root` a line; others are left out.

    Example:
        >>> from fkd import ImagesConfig, open_source
        >>> open_source(ImagesConfig(root="photos"))
        FolderSource('photos', 15 images, 3 classes)
        >>> open_source(ImagesConfig(root="photos", format="flat"))
        FolderSource('photos', 15 images, no classes)
    """

    root: str
    format: SourceFormat = "auto"
    split: str = "train"
    image_column: str = "image"
    label_column: str | None = "label"
    download: bool = False
    classes: Naming = "auto"
    subset: str | None = None

    def __post_init__(self) -> None:
        settle_paths(self, "root", "subset")
        if self.root is None:
            raise ConfigError(
                "images.root is None; give a folder of images, or one file that holds or lists them"
            )
        if not isinstance(self.split, str):
            raise ConfigError(f"images.split is a name such as val, got {self.split!r}")
        if self.format not in get_args(SourceFormat):
            known = ", ".join(get_args(SourceFormat))
            raise ConfigError(f"images.format: unknown format {self.format!r}; choose from {known}")
        require_one_of(Naming, "images.classes", self.classes)
        if self.classes == "by_number" and (self.format == "flat" or self.label_column is None):
            raise ConfigError(
                "images.classes by_number: images.format flat, or label_column null, takes images "
                "without classes; leave out one of the two"
            )


@dataclass(frozen=True)
class LoadedImage:
    """A decoded image and the identity of the file it came from.

    Attributes:
        image: uint8 RGB (3, H, W).
        crc32: checksum of the encoded file.
        num_bytes: size of the encoded file.
    """

    image: Tensor
    crc32: int
    num_bytes: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.image.shape[1], self.image.shape[2]

    @property
    def content_key(self) -> bytes:
        """What identifies the image where crops of labels are drawn; see the function."""
        return content_key(self.crc32, self.num_bytes)


def load(source: ImageSource, i: int, decoder: Decoder = "pillow") -> LoadedImage:
    """Read and decode image `i`; see `decode_image`.

    Raises:
        ImageError: it cannot be read or decoded.
    """
    data = source.read(i)
    return LoadedImage(decode_image(data, source.name(i), decoder), *fingerprint(data))


def fingerprint(data: bytes) -> tuple[int, int]:
    """CRC-32 and length of an encoded image: what a store knows of its bytes."""
    return zlib.crc32(data), len(data)


def spread_images(source: ImageSource, most: int) -> list[int]:
    """Positions of at most `most` images, from the first to the last at equal distances."""
    places = np.linspace(0, len(source) - 1, min(most, len(source)))
    distinct: list[int] = np.unique(places.astype(int)).tolist()
    return distinct


def open_source(config: ImagesConfig) -> ImageSource:
    """The images that a configuration describes.

    Raises:
        ConfigError: nothing usable is there; the message names the field and the way out.

    Example:
        >>> from fkd import ImagesConfig, open_source
        >>> images = open_source(ImagesConfig(root="photos"))
        >>> images.key(7), images.class_names[images.label(7)]
        (b'bee/2.png', 'bee')
    """
    source = _name_classes(_open(config), config)
    return source if config.subset is None else named_part(source, config.subset)


def _open(config: ImagesConfig) -> ImageSource:
    """The images, with the classes as they are called where they lie."""
    if config.format in ("cifar10", "cifar100"):
        return ArraySource(_open_cifar(config))
    if os.path.isfile(config.root) and _may_be(".parquet", config):
        return _open_parquet(config, None)
    if os.path.isfile(config.root) and _may_be(".tar", config):
        return TarSource(config.root, *choose_files(config.root, None, config.split, ".tar"))
    columns = (config.image_column, config.label_column)
    if _is_list(config):
        return ListSource(config.root, *columns, config.split)
    if config.format == "arrow" or (config.format == "auto" and is_saved_dataset(config.root)):
        return ArrowSource(config.root, config.split, *columns)
    tree = read_tree(config.root)
    if config.format == "parquet" or (config.format == "auto" and _is_parquet(config, tree)):
        return _open_parquet(config, tree)
    if config.format == "tar" or (config.format == "auto" and _is_of_archives(tree)):
        return TarSource(config.root, *choose_files(config.root, tree, config.split, ".tar"))
    layouts: dict[str, FolderLayout] = {"classes": "classes", "flat": "flat"}
    layout = layouts.get(config.format, "folder")
    return scan_folder(config.root, split=config.split, layout=layout, tree=tree)


def _name_classes(source: ImageSource, config: ImagesConfig) -> ImageSource:
    """The source with its classes as the configuration says.

    Raises:
        ConfigError: numbers are wanted, and there are none.
    """
    if source.class_names is None:
        if config.classes == "by_number":
            raise ConfigError(
                f"images.classes by_number: {source.root} has no classes; leave it out, or give "
                "images in class folders"
            )
        return source
    on_request = config.classes == "by_number"
    if on_request or (config.classes == "auto" and are_imagenet_ids(source.class_names)):
        return NumberedSource(source, on_request=on_request)
    return source


def refuse_same_folder(out: str, *images: ImagesConfig | None) -> None:
    """Refuse to write into the folder of images itself; a folder in it is fine.

    Raises:
        ConfigError: they are the same.
    """
    for config in images:
        if config is not None and os.path.realpath(out) == os.path.realpath(config.root):
            raise ConfigError(
                f"out: {out} is the folder of the images; give another, which may lie in it, e.g. "
                f"--out {os.path.join(out, 'out')}"
            )


def remarks_of(source: ImageSource) -> list[str]:
    """What the user may want to know of a source, a sentence each: files that were left out, for
    example; nothing for a source of the user's own."""
    return list(getattr(source, "remarks", ()))


def as_source(dataset: Any) -> ImageSource:
    """Any data set as a source: a source itself, the path of what `open_source` opens, an object of
    Hugging Face `datasets`, a data set of timm or torchvision, a sequence of (image, ...), or a
    `torch.utils.data.Subset` of one of these objects.

    Positions in the source are in the order of the keys, which for data sets of files need not be
    the order of their items.

    Raises:
        ConfigError: the object is no data set, or has transforms or a loader that would be skipped;
            or as `open_source`.
    """
    if isinstance(dataset, ImageSource):
        return dataset
    if isinstance(dataset, ImagesConfig):
        return open_source(dataset)
    if isinstance(dataset, str | os.PathLike):
        return open_source(ImagesConfig(root=os.fspath(dataset)))
    source: ImageSource = source_of(dataset)
    return source


def _may_be(extension: str, config: ImagesConfig) -> bool:
    """Whether a file may be a Parquet file, or a tar archive."""
    return config.format == extension[1:] or (
        config.format == "auto" and config.root.lower().endswith(extension)
    )


def _is_list(config: ImagesConfig) -> bool:
    """Whether the root is a file of paths."""
    named = config.root.lower().endswith(EXTENSIONS) and os.path.isfile(config.root)
    return config.format == "list" or (config.format == "auto" and named)


def _is_of_archives(tree: Folder) -> bool:
    """Whether a folder is one of tar archives: there is nothing else that may hold its images."""
    others = tree.num_images or next(tree.table_paths(), None) is not None
    return not others and next(tree.archive_paths(), None) is not None


def _is_parquet(config: ImagesConfig, tree: Folder) -> bool:
    """Whether a folder is one of Parquet files, not one of images with a table beside them.

    Raises:
        ConfigError: it may be both.
    """
    if next(tree.table_paths(), None) is None:
        return False
    if tree.num_images == 0:
        return True
    if not holds_images(config.root, tree, config.image_column):
        return False
    if tree.num_images > _FEW_IMAGES:
        raise ConfigError(
            f"images.root: {config.root} holds {tree.num_images:,} image files and Parquet files "
            "of images; set images.format folder or parquet, or give the folder of one of them"
        )
    return True


def _open_parquet(config: ImagesConfig, tree: Folder | None) -> ParquetSource:
    source = ParquetSource(
        config.root,
        split=config.split,
        image_column=config.image_column,
        label_column=config.label_column,
        tree=tree,
    )
    if tree is not None and tree.num_images:
        source.remarks.append(
            f"{tree.num_images:,} image files beside the Parquet files of {config.root} are left "
            "out; images.format folder takes these instead"
        )
    return source


def _open_cifar(config: ImagesConfig) -> Any:
    from torchvision import datasets

    if config.split not in ("train", "test"):
        raise ConfigError(f"images.split: CIFAR has train and test, no {config.split!r}")
    build = datasets.CIFAR10 if config.format == "cifar10" else datasets.CIFAR100
    try:
        return build(config.root, train=config.split == "train", download=config.download)
    except (RuntimeError, OSError) as error:
        raise ConfigError(
            f"images.root: {config.root} holds no complete {build.__name__} ({error}); "
            "set images.download true where there is a network"
        ) from error
