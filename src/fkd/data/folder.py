"""Images as files below a folder: one folder per class, or files without classes.

Not known here: what is inside the files, and their decoding.
"""

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from fkd.errors import ConfigError, ImageError
from fkd.store.canonical import printable

IMAGE_EXTENSIONS = (
    *(b".jpg", b".jpeg", b".jpe", b".jfif", b".mpo", b".png", b".apng", b".webp"),
    *(b".bmp", b".dib", b".gif", b".tif", b".tiff", b".ppm", b".pgm", b".pbm", b".pnm"),
)
SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")

MAX_FILE_BYTES = 2**30
"""Largest file that is read, 1 GiB: more than any image that may be decoded."""

_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)


class PackedKeys(Sequence[bytes]):
    """An immutable sequence of byte strings, held in two buffers.

    A list of a million small objects would be copied, page by page, into every worker process as
    soon as reference counts change.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._bytes = b"".join(keys)
        self._ends = np.cumsum([0, *map(len, keys)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, i: int) -> bytes:  # type: ignore[override]  # slices are not needed
        if not 0 <= i < len(self):
            raise IndexError(i)
        return self._bytes[self._ends[i] : self._ends[i + 1]]


class FolderSource:
    """Image files below `root`; the key of an image is its path below `root`, with slashes.

    Attributes:
        root: the folder, as given.
        class_names: names in the order of the labels, or None.
    """

    def __init__(
        self,
        root: str,
        keys: Sequence[bytes],
        labels: Sequence[int],
        class_names: list[str] | None,
    ) -> None:
        """Make a source of keys, in any order but unique, and the label of each, -1 for none."""
        order = sorted(range(len(keys)), key=keys.__getitem__)
        self.root = root
        self.class_names = class_names
        self._keys = PackedKeys([keys[i] for i in order])
        self._labels = np.asarray(labels, dtype=np.int32)[order]

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        classes = "no classes" if self.class_names is None else f"{len(self.class_names)} classes"
        return f"FolderSource({self.root!r}, {len(self)} images, {classes})"

    def key(self, i: int) -> bytes:
        """The path of image `i` below the root."""
        return self._keys[i]

    def label(self, i: int) -> int:
        """The class of image `i`, -1 for none."""
        return int(self._labels[i])

    def name(self, i: int) -> str:
        """The path of image `i`, printable."""
        return printable(self._path(i))

    def read(self, i: int) -> bytes:
        """The bytes of the file of image `i`.

        Raises:
            ImageError: not a regular file, gone, or unreadable.
        """
        return read_regular_file(self._path(i), self.name(i))

    def _path(self, i: int) -> bytes:
        return os.path.join(os.fsencode(self.root), self._keys[i])


def scan_folder(root: str, *, split: str = "train", flat: bool = False) -> FolderSource:
    """List the image files below `root`.

    A folder with sub-folders of images has one class per sub-folder, in the order of their names
    (bytewise, as torchvision's ImageFolder); files may lie deeper. A folder with images only has no
    classes. If all sub-folders are called after splits (train, val ...), the one called `split` is
    listed in place of `root`. Only files with a known image extension count; hidden files do not.
    Links are followed. With `flat`, sub-folders are no classes, and there are none.

    Raises:
        ConfigError: the folder is missing, unreadable or without images; a class folder is empty;
            loose images lie beside class folders; there is no such split.
    """
    if not os.path.isdir(root):
        what = "is not a folder" if os.path.exists(root) else "does not exist"
        raise ConfigError(f"images.root: {root} {what}; give a folder of images")
    top = os.fsencode(root)
    folders, loose = _list(top)
    if folders and not loose and all(os.fsdecode(folder) in SPLITS for folder in folders):
        return scan_folder(_enter_split(root, split, folders), split=split, flat=flat)
    below = {folder: list(_walk(top, folder, _identities(top))) for folder in folders}
    nested = [key for keys in below.values() for key in keys]
    if not nested and not loose:
        known = ", ".join(e.decode() for e in IMAGE_EXTENSIONS)
        raise ConfigError(
            f"images.root: no image files ({known}) below {root}; give another folder"
        )
    if flat or not nested:
        return FolderSource(root, [*loose, *nested], [-1] * (len(loose) + len(nested)), None)
    _refuse_half_classes(root, loose, below)
    classes = sorted(below)
    labels = [label for label, folder in enumerate(classes) for _ in below[folder]]
    keys = [key for folder in classes for key in below[folder]]
    return FolderSource(root, keys, labels, [printable(folder) for folder in classes])


def read_regular_file(path: bytes, name: str) -> bytes:
    """All bytes of a file; a pipe or device is refused instead of blocking.

    Raises:
        ImageError: not a regular file, too large, gone, or unreadable; `name` is in the message.
        ConfigError: the process has too many open files, which says nothing about the image.
    """
    try:
        with open(os.open(path, _OPEN_FLAGS), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(f"{name} is not a regular file; remove it")
            if status.st_size > MAX_FILE_BYTES:
                raise ImageError(f"{name} has {status.st_size} bytes, too many for an image")
            return file.read()
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise ConfigError(
                f"too many open files while reading {name}; raise `ulimit -n` or use fewer workers"
            ) from error
        raise ImageError(_unreadable(name, error)) from error


def _unreadable(name: str, error: OSError) -> str:
    return f"{name} cannot be read ({error.strerror}); restore the file or remove it"


def _list(folder: bytes) -> tuple[list[bytes], list[bytes]]:
    """Names of the sub-folders and of the image files directly in `folder`, hidden ones left out.

    Raises:
        ConfigError: the folder cannot be listed; leaving it out would change the data set.
    """
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(b".")]
    except OSError as error:
        raise ConfigError(
            f"images.root: folder {printable(folder)} cannot be listed ({error.strerror})"
        ) from error
    folders = [entry.name for entry in entries if _is_folder(entry)]
    others = set(folders)
    images = [
        entry.name
        for entry in entries
        if entry.name not in others and entry.name.lower().endswith(IMAGE_EXTENSIONS)
    ]
    return folders, images


def _is_folder(entry: "os.DirEntry[bytes]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: listed as a file, if at all, and reported when read
        return False


def _walk(root: bytes, folder: bytes, above: frozenset[tuple[int, int]]) -> Iterator[bytes]:
    """Keys of all images below `root/folder`; `above` identifies the folders that contain it."""
    path = os.path.join(root, folder)
    here = _identities(path)
    if here <= above:
        raise ConfigError(
            f"images.root: {printable(path)} is a link to a folder that contains it; remove it"
        )
    folders, images = _list(path)
    for image in images:
        yield folder + b"/" + image
    for name in folders:
        yield from _walk(root, folder + b"/" + name, above | here)


def _identities(path: bytes) -> frozenset[tuple[int, int]]:
    status = os.stat(path)
    return frozenset({(status.st_dev, status.st_ino)})


def _enter_split(root: str, split: str, folders: Iterable[bytes]) -> str:
    if os.fsencode(split) not in folders:
        splits = ", ".join(sorted(map(os.fsdecode, folders)))
        raise ConfigError(f"images.split: {root} has no {split!r}, only {splits}; choose one")
    return os.path.join(root, split)


def _refuse_half_classes(root: str, loose: list[bytes], below: dict[bytes, list[bytes]]) -> None:
    """Class folders must be all there is, and none empty: else labels would shift silently."""
    if loose:
        raise ConfigError(
            f"images.root: {root} holds {len(loose)} images ({printable(min(loose))} ...) beside "
            f"{len(below)} class folders ({printable(min(below))} ...); "
            "move them into a class folder, or use images.format flat for images without classes"
        )
    empty = sorted(folder for folder, keys in below.items() if not keys)
    if empty:
        raise ConfigError(
            f"images.root: class folder {printable(empty[0])} of {root} holds no image "
            f"({len(empty)} such folders); remove it or fill it"
        )
