"""Images in tar archives, as WebDataset and others pack them: read where they lie, never unpacked.

    train-000000.tar
        n01440764_10026.jpg      an image
        n01440764_10026.cls      its class: a number, or a name
        n01440764_10026.json     or that under "cls", "label" or "class"
    train-000001.tar
        n01440764/10027.JPEG     or the folder that it lies in is its class
    train-000002.tar
        COCO_139.cls             several numbers with spaces or commas, or one class a line
        COCO_285.json            or a list, also under "labels" or "classes"; [] is no class
    classnames.txt               names of numbered classes, one per line, if it is there

Where any image has several classes, or a list, all are taken for images with several classes each,
or none, and folders are no classes.

The members of every archive are listed once, by their headers. An image is then read by one read at
its place, in any order.
"""

import errno
import json
import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fkd.data.folder import MAX_FILE_BYTES
from fkd.data.formats import image_extensions
from fkd.data.noted_classes import NUMBER, Noted, class_list, number_noted, split_classes
from fkd.errors import ConfigError, ImageError
from fkd.store.canonical import printable
from fkd.userfiles import os_reason

_LABELS = ("cls", "label", "class", "labels", "classes")
"""Members of a .json file that say a class, or several; the first that is there counts."""

_NOTE_BYTES = 1 << 20  # of a .cls or .json file


@dataclass(frozen=True)
class Member:
    """A file in an archive: its name there, where its bytes begin, and how many there are."""

    name: bytes
    offset: int
    size: int


@dataclass
class _Archive:
    """What an archive holds.

    Attributes:
        images: those of its members.
        notes: members that may say the class of an image, by the name that they share with it.
        left_out: other members.
    """

    images: list[Member] = field(default_factory=list)
    notes: dict[bytes, list[Member]] = field(default_factory=dict)
    left_out: int = 0


class TarSource:
    """Images in tar archives; the key of an image is "ARCHIVE/MEMBER".

    Attributes:
        root: the folder or archive, as given.
        class_names: names in the order of the labels, or None without labels.
        remarks: what the user may want to know of the archives, a sentence each.
        labels_are_ids: whether the labels are numbers in the archives, too, and no names.
        multi_label: whether images have several classes each.
    """

    def __init__(self, root: str, files: Sequence[str], remarks: Sequence[str] = ()) -> None:
        """Lists the members of the archives.

        Args:
            root: the folder, or one archive.
            files: paths of the archives below the folder; of one archive its name.
            remarks: on the choice of these.

        Raises:
            ConfigError: an archive is compressed or damaged, two members have one name, there are
                no images, or a label is no class.
        """
        self.root = root
        self.remarks = list(remarks)
        folder = os.path.dirname(root) if os.path.isfile(root) else root
        self._paths = [os.path.join(folder, file) for file in files]
        archives = [_list_members(path) for path in self._paths]
        self._entries = [
            (os.fsencode(file) + b"/" + member.name, number, member)
            for number, (file, archive) in enumerate(zip(files, archives, strict=True))
            for member in archive.images
        ]
        self._entries.sort(key=lambda entry: entry[0])
        self._require_sound(folder, sum(archive.left_out for archive in archives))
        for path, archive in zip(self._paths, archives, strict=True):
            _refuse_samples_of_several(path, archive)
        noted = [self._noted_class(archives[n], n, member) for _, n, member in self._entries]
        folders = [_folder_of(member) for _, _, member in self._entries]
        found = number_noted(noted, folders, folder, root)
        self.class_names, self._labels, self._sets = found.names, found.labels, found.sets
        self.multi_label, self.labels_are_ids = found.multi_label, found.are_ids

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        classes = "no classes" if self.class_names is None else f"{len(self.class_names)} classes"
        return f"TarSource({self.root!r}, {len(self)} images, {classes})"

    def key(self, i: int) -> bytes:
        """Archive below the root and member, such as b"train-000.tar/n01440764/10026.jpg"."""
        return self._entries[i][0]

    def label(self, i: int) -> int:
        """The class of image `i`, -1 for none or where images have several."""
        return int(self._labels[i])

    def labels(self, i: int) -> np.ndarray:
        """All classes of image `i`, int64 (n,)."""
        return self._sets[i]

    def name(self, i: int) -> str:
        """Archive and member of image `i`, printable."""
        _, number, member = self._entries[i]
        return f"{printable(os.fsencode(self._paths[number]))}/{printable(member.name)}"

    def read(self, i: int) -> bytes:
        """The encoded image `i`.

        Raises:
            ImageError: the archive is gone, cannot be read or was cut, or the image is too large.
            ConfigError: the process has too many open files, which says nothing about the image.
        """
        _, number, member = self._entries[i]
        return read_member(self._paths[number], member, self.name(i))

    def _require_sound(self, folder: str, left_out: int) -> None:
        if not self._entries:
            raise ConfigError(
                f"images.root: there is no image in the {len(self._paths)} tar archives of {folder}"
            )
        for before, after in zip(self._entries, self._entries[1:], strict=False):
            if before[0] == after[0]:
                raise ConfigError(
                    f"images.root: {printable(before[0])} is twice in its archive; pack it again"
                )
        if left_out:
            self.remarks.append(f"{left_out:,} members of the archives are left out, as no images")

    def _noted_class(self, archive: _Archive, number: int, member: Member) -> Noted:
        """The class of an image, or several, by its .cls or .json file; None without one."""
        path = self._paths[number]
        for note in archive.notes.get(_stem(member.name), []):
            found = _read_class(path, note)
            if found is not None:
                return found
        return None


def _folder_of(member: Member) -> str | None:
    """The folder that a member lies in, whose name may be a class."""
    folder = member.name.rpartition(b"/")[0].rpartition(b"/")[2]
    return printable(folder) if folder and folder != b"." else None


def read_member(path: str, member: Member, name: str) -> bytes:
    """An encoded image in an archive; `name` is in messages.

    Raises:
        ImageError: the archive is gone, cannot be read or was cut, or the image is too large.
        ConfigError: the process has too many open files, which says nothing about the image.
    """
    if member.size > MAX_FILE_BYTES:
        raise ImageError(f"{name} has {member.size} bytes, too many for an image")
    try:
        return _read_at(path, member)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise ConfigError(
                f"too many open files while reading {name}; raise `ulimit -n` or use fewer workers"
            ) from error
        raise ImageError(
            f"{name} cannot be read ({os_reason(error)}); restore the archive"
        ) from error


def _read_at(path: str, member: Member) -> bytes:
    with open(path, "rb", buffering=0) as file:
        file.seek(member.offset)
        data = file.read(member.size)
    if len(data) < member.size:
        raise OSError(errno.EIO, "it ends before the image does")
    return data


def _list_members(path: str) -> _Archive:
    """The members of an archive, by its headers."""
    archive, extensions = _Archive(), image_extensions()
    try:
        for member in _headers(path):
            leaf = member.name.rpartition(b"/")[2].lower()
            if leaf.startswith(b"."):
                continue
            if leaf.endswith(extensions):
                archive.images.append(member)
            elif leaf.endswith((b".cls", b".json")):
                archive.notes.setdefault(_stem(member.name), []).append(member)
            else:
                archive.left_out += 1
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"images.root: {printable(os.fsencode(path))} is no whole tar archive ({error}); "
            "restore it, or unpack it if it is compressed"
        ) from error
    return archive


def _headers(path: str) -> Iterator[Member]:
    """The plain files of an archive, without their contents."""
    size = _size_of_file(path)
    opened: Any
    with tarfile.open(path, "r:", errors="surrogateescape") as opened:
        for info in opened:
            opened.members = []  # tarfile would keep them all
            if not info.isreg() or info.issparse():
                continue
            if info.offset_data + info.size > size:
                raise OSError("it is cut short")
            name = os.fsencode(os.path.normpath(info.name).lstrip("/"))
            yield Member(name, info.offset_data, info.size)


def _size_of_file(path: str) -> int:
    """Bytes of a regular file; a pipe would be waited for.

    Raises:
        OSError: it is something else, or cannot be looked up.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is no regular file")
    return status.st_size


def _refuse_samples_of_several(path: str, archive: _Archive) -> None:
    """Refuse images that share a note, as an image and its mask do: one of them has no class.

    Raises:
        ConfigError: names the first two.
    """
    owner: dict[bytes, bytes] = {}
    for member in archive.images:
        stem = _stem(member.name)
        if stem in archive.notes and stem in owner:
            raise ConfigError(
                f"images.root: {printable(owner[stem])} and {printable(member.name)} in "
                f"{printable(os.fsencode(path))} are parts of one sample, and only one can be its "
                "image; pack the images without the other parts"
            )
        owner[stem] = member.name


def _stem(name: bytes) -> bytes:
    """What an image and its notes have in common: the name up to its first dot."""
    folder, slash, leaf = name.rpartition(b"/")
    return folder + slash + leaf.partition(b".")[0]


def _read_class(path: str, note: Member) -> Noted:
    """The class that a .cls or .json file says, or several; None if it says none."""
    name = f"{printable(os.fsencode(path))}/{printable(note.name)}"
    if note.size > _NOTE_BYTES:
        raise ConfigError(f"images.root: {name} has {note.size:,} bytes, too many for a class")
    try:
        text = _read_at(path, note).decode("utf-8")
        is_json = note.name.lower().endswith(b".json")
        value: Any = json.loads(text) if is_json else split_classes(text.strip())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"images.root: {name} cannot be read ({error}); pack it again") from error
    if isinstance(value, dict):
        value = next((value[key] for key in _LABELS if value.get(key) is not None), None)
    if isinstance(value, list):
        return class_list(value, name)
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return int(value)
    if isinstance(value, str) and value:
        return value
    if value is None or value == "":
        return None
    if type(value) is not int:
        raise ConfigError(f"images.root: the class in {name} is neither a number nor a name")
    return value
