"""Images as files below a folder: one folder per class, or files without classes.

Not known here: what is inside the files, and their decoding.
"""

import errno
import os
import stat
from collections.abc import Sequence
from typing import Literal

import numpy as np

from fkd.data.formats import image_extensions
from fkd.data.layout import (
    Layout,
    as_classes,
    describe_unused_split,
    find_classes,
    place,
    without_classes,
)
from fkd.data.listing import Folder, read_tree
from fkd.errors import ConfigError, ImageError
from fkd.store.canonical import printable

FolderLayout = Literal["folder", "classes", "flat"]

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
        remarks: what the user may want to know of the folder, a sentence each.
    """

    def __init__(
        self,
        root: str,
        keys: Sequence[bytes],
        labels: Sequence[int] | np.ndarray,
        class_names: list[str] | None,
        remarks: Sequence[str] = (),
    ) -> None:
        """Make a source of keys, in any order but unique, and the label of each, -1 for none."""
        order = sorted(range(len(keys)), key=keys.__getitem__)
        self.root = root
        self.class_names = class_names
        self.remarks = list(remarks)
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


def scan_folder(
    root: str, *, split: str = "train", layout: FolderLayout = "folder", tree: Folder | None = None
) -> FolderSource:
    """List the image files below `root`.

    Files count whose extension is one of a format that can be read; hidden files do not, nor what
    systems and this program write beside images. Links are followed.

    Args:
        root: the folder.
        split: which of its folders to list in its place, if all are called after splits.
        layout: folder takes sub-folders as classes if they look like classes, in the order of their
            names (bytewise, as torchvision's ImageFolder), where files may lie deeper; classes does
            so whatever they look like; flat has no classes.
        tree: what is below the folder, if that is known.

    Raises:
        ConfigError: the folder is missing, unreadable or without images; a link cannot be followed;
            it is not clear which level has the classes; a class folder is empty; loose images lie
            beside class folders; there is no such split.
    """
    tree = read_tree(root) if tree is None else tree
    if not tree.num_images:
        known = ", ".join(extension.decode() for extension in image_extensions())
        left_out = tree.describe_left_out()
        others = f" ({left_out})" if left_out else ""
        raise ConfigError(
            f"images.root: no image files ({known}) below {root}{others}; give another folder"
        )
    if layout == "flat":
        found = without_classes(root, tree, split)
    elif layout == "classes":
        found = as_classes(root, tree)
    else:
        found = find_classes(root, tree, split)
    if found.folder is tree:
        found.remarks.extend(describe_unused_split(root, split))
    return _as_source(root, found)


def _as_source(root: str, layout: Layout) -> FolderSource:
    """The images of a layout; keys begin at its folder, which may be a split of the root."""
    prefix = len(layout.folder.path) + 1 if layout.folder.path else 0
    base = os.path.join(root, os.fsdecode(layout.folder.path)) if prefix else root
    left_out = layout.folder.describe_left_out()
    remarks = [*layout.remarks]
    if left_out:
        remarks.append(f"{place(root, layout.folder)}: {left_out}")
    if layout.classes is None:
        keys = [path[prefix:] for path in layout.folder.image_paths()]
        return FolderSource(base, keys, [-1] * len(keys), None, remarks)
    names = [printable(folder.name) for folder in layout.classes]
    if len(set(names)) < len(names):
        raise ConfigError(f"images.root: two class folders of {base} have the same printed name")
    keys = [path[prefix:] for folder in layout.classes for path in folder.image_paths()]
    labels = np.repeat(range(len(names)), [folder.num_images for folder in layout.classes])
    return FolderSource(base, keys, labels, names, remarks)


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
