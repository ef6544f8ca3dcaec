"""What lies below a folder: images, Parquet files, and what is left out.

Hidden files, thumbnails and waste that systems put beside images are no images and no classes, and
neither are label stores, run folders and kept features, so that a user may keep them below the
images.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from fkd.data.formats import image_extensions
from fkd.errors import ConfigError
from fkd.store.canonical import printable
from fkd.store.manifest import COMMITS, CONFIG, LOCK, SHARDS
from fkd.userfiles import os_reason

NO_EXTENSION = "without extension"

_MAX_DEPTH = 64
# Of Synology, QNAP, macOS, Windows and Linux, in lower case; hidden ones are left out anyway.
_SYSTEM_FOLDERS = frozenset(
    {b"@eadir", b"#recycle", b"#snapshot", b"@recycle", b"@recently-snapshot", b"@tmp"}
    | {b"@__thumb", b"__macosx", b"$recycle.bin", b"system volume information"}
    | {b"lost+found", b"__pycache__"}
)
_SYSTEM_FILES = frozenset({b"thumbs.db", b"ehthumbs.db", b"desktop.ini", b"picasa.ini", b"icon\r"})
# Files about images, not expected to be read as images.
_NOTES = frozenset(
    {".txt", ".md", ".rst", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".html"}
    | {".htm", ".log", ".py", ".ipynb", ".sh", ".ini", ".toml", ".parquet", ".md5", ".sha256"}
)
_NOTE_NAMES = frozenset(
    {"readme", "license", "licence", "copying", "copyright", "notice", "authors", "changelog"}
    | {"makefile", "lock"}
)
_RUN_FILES = frozenset({b"config.yaml", b"env.json"})  # as fkd.engine.run_folder writes them
# What `fkd probe` keeps: features in folders of nothing else, and classifiers beside these folders.
_FEATURES = re.compile(rb"\d{8}\.safetensors(\.\d+\.tmp)?")
_CLASSIFIER = re.compile(rb"classifier-[0-9a-f]{16}\.safetensors(\.\d+\.tmp)?")


@dataclass(frozen=True)
class Folder:
    """A folder below the root of a data set.

    Attributes:
        path: below the root, with slashes; empty for the root itself.
        images: names of the images directly in it.
        tables: names of the Parquet files directly in it.
        archives: names of the tar archives directly in it; they are left out, too.
        folders: its sub-folders.
        left_out: other files directly in it that might be meant as images, by extension.
    """

    path: bytes
    images: list[bytes] = field(default_factory=list)
    tables: list[bytes] = field(default_factory=list)
    archives: list[bytes] = field(default_factory=list)
    folders: list["Folder"] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> bytes:
        """The last part of the path."""
        return self.path.rpartition(b"/")[2]

    @cached_property
    def num_images(self) -> int:
        """Images in it and below it."""
        return len(self.images) + sum(folder.num_images for folder in self.folders)

    def walk(self) -> Iterator["Folder"]:
        """It and all folders below it."""
        yield self
        for folder in self.folders:
            yield from folder.walk()

    def join(self, name: bytes) -> bytes:
        """The path of something in it, below the root."""
        return self.path + b"/" + name if self.path else name

    def image_paths(self) -> Iterator[bytes]:
        """Paths of all images in it and below it, below the root."""
        return (folder.join(name) for folder in self.walk() for name in folder.images)

    def table_paths(self) -> Iterator[bytes]:
        """The same for Parquet files."""
        return (folder.join(name) for folder in self.walk() for name in folder.tables)

    def archive_paths(self) -> Iterator[bytes]:
        """The same for tar archives."""
        return (folder.join(name) for folder in self.walk() for name in folder.archives)

    def describe_left_out(self) -> str | None:
        """One sentence on the files in it and below it that are left out, None for none."""
        counts = sum((folder.left_out for folder in self.walk()), Counter[str]())
        if not counts:
            return None
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common())
        advice = "convert them to PNG or JPEG if they are images"
        if counts.keys() & {".heic", ".heif", ".hif"}:
            advice = "`pip install pillow-heif` to have HEIC read, or convert them to PNG or JPEG"
        return f"{counts.total():,} files are left out, as no images: {kinds}; {advice}"


def read_tree(root: str) -> Folder:
    """List everything below a folder; links are followed.

    Raises:
        ConfigError: the folder is missing, cannot be listed, or is a label store, a run folder or
            of features; a link cannot be followed, or leads to a folder that contains it.
    """
    if not os.path.isdir(root):
        raise ConfigError(f"images.root: {root} {_why_no_folder(root)}; give a folder of images")
    broken: list[str] = []
    top = _read(os.fsencode(root), b"", frozenset(), broken)
    if top is None:
        raise ConfigError(
            f"images.root: {root} is a label store, a run folder or of features; give the folder "
            "of the images"
        )
    if broken:
        more = f" ({len(broken)} such links)" if len(broken) > 1 else ""
        raise ConfigError(
            f"images.root: {min(broken)}{more}; restore what it points to, or remove the link"
        )
    return top


def _why_no_folder(root: str) -> str:
    try:
        os.stat(root)
    except (FileNotFoundError, ValueError):
        return "does not exist"
    except OSError as error:
        return f"cannot be opened ({os_reason(error)})"
    return "is not a folder"


def _read(
    root: bytes, path: bytes, above: frozenset[tuple[int, int]], broken: list[str]
) -> Folder | None:
    """The folder `root/path`; None for one of ours, or a folder below the root for nothing else.

    `above` identifies the folders that contain it; links that cannot be followed go to `broken`.
    """
    where = os.path.join(root, path) if path else root
    entries, identity = _scan(where)
    if identity in above or path.count(b"/") > _MAX_DEPTH:
        raise ConfigError(
            f"images.root: {printable(where)} is a link to a folder that contains it; remove it"
            if identity in above
            else f"images.root: {printable(where)} lies too deep; move the images up"
        )
    if _is_ours({entry.name for entry in entries}):
        return None
    folder = Folder(path)
    extensions = image_extensions()
    holds_ours = False
    for entry in entries:
        if _is_hidden(entry.name):
            continue
        is_folder = _is_folder(entry, broken)
        if is_folder and entry.name.lower() not in _SYSTEM_FOLDERS:
            below = _read(root, folder.join(entry.name), above | {identity}, broken)
            folder.folders.extend([] if below is None else [below])
            holds_ours |= below is None
        elif is_folder is False:
            _add_file(folder, entry.name, extensions)
    folder.folders.sort(key=lambda below: below.name)
    is_empty = not (folder.images or folder.tables or folder.folders or folder.left_out)
    return None if path and holds_ours and is_empty else folder


def _scan(path: bytes) -> tuple[list["os.DirEntry[bytes]"], tuple[int, int]]:
    """The entries of a folder, and device and inode of the folder.

    Raises:
        ConfigError: the folder cannot be listed; leaving it out would change the data set.
    """
    try:
        status = os.stat(path)
        with os.scandir(path) as entries:
            return list(entries), (status.st_dev, status.st_ino)
    except OSError as error:
        raise ConfigError(
            f"images.root: folder {printable(path)} cannot be listed ({os_reason(error)})"
        ) from error


def _is_hidden(name: bytes) -> bool:
    return name.startswith(b".") or name.lower() in _SYSTEM_FILES


def _is_folder(entry: "os.DirEntry[bytes]", broken: list[str]) -> bool | None:
    """Whether an entry is a folder, or a link to one; None for a link that cannot be followed.

    Such a link may have been a class, and without it all later classes would have other ids.
    """
    try:
        if entry.is_symlink():
            os.stat(entry.path)
        return entry.is_dir()
    except OSError as error:
        broken.append(f"{printable(entry.path)} cannot be followed ({os_reason(error)})")
        return None


def _add_file(folder: Folder, name: bytes, extensions: tuple[bytes, ...]) -> None:
    lower = name.lower()
    if lower.endswith(extensions):
        folder.images.append(name)
    elif lower.endswith(b".parquet"):
        folder.tables.append(name)
    elif not _CLASSIFIER.fullmatch(name):
        stem, extension = os.path.splitext(printable(lower))
        if extension == ".tar":
            folder.archives.append(name)
        if extension not in _NOTES and (extension or stem not in _NOTE_NAMES):
            folder.left_out[extension or NO_EXTENSION] += 1


def _is_ours(names: set[bytes]) -> bool:
    """Whether a folder with these entries is a label store, a run or of features, at any age."""
    if all(_is_hidden(name) or _FEATURES.fullmatch(name) for name in names):
        return not all(map(_is_hidden, names))
    config, shards, commits, lock = map(os.fsencode, (CONFIG, SHARDS, COMMITS, LOCK))
    if not names & {config, shards, lock, *_RUN_FILES}:  # nearly always
        return False
    there = {name.removesuffix(b".tmp") for name in names if not _is_hidden(name)}
    is_store = {config, shards} <= there or {config, lock} <= there or {shards, commits} <= there
    is_run = there >= _RUN_FILES or {lock, b"env.json"} <= there
    return is_store or is_run or there == {lock}
