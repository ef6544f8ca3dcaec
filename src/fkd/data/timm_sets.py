"""timm's `ImageDataset` as a source: the files or archive members that its reader has listed.

Keys are those of the same images given by path: below a folder "CLASS/FILE", of archives
"ARCHIVE/MEMBER". So labels of `fkd label --images.root FOLDER` fit timm's data set of the folder.
"""

import os
from collections.abc import Sequence
from typing import Any

from fkd.data.arrays import refuse_transforms
from fkd.data.hf_datasets import dataset_kind, from_dataset
from fkd.data.path_sets import Files, names_by_id, require_unique
from fkd.data.tars import Member, read_member
from fkd.errors import ConfigError
from fkd.store.canonical import printable


def is_timm_dataset(dataset: Any) -> bool:
    """Whether an object is timm's map-style data set."""
    return any(
        base.__module__ == "timm.data.dataset" and base.__name__ == "ImageDataset"
        for base in type(dataset).__mro__
    )


def from_timm(dataset: Any, positions: Sequence[int] | None) -> Any:
    """The images of timm's `ImageDataset`, undecoded.

    Args:
        dataset: the object.
        positions: of the images to take; None for all.

    Raises:
        ConfigError: it has a transform or a mode of colors, which would be skipped; its reader
            keeps no list of files.
    """
    refuse_transforms(dataset)
    if dataset.input_img_mode not in ("RGB", "", None):
        raise ConfigError(
            f"the data set reads images as {dataset.input_img_mode} (input_img_mode), and labels "
            "are of RGB images; build it without"
        )
    reader = dataset.reader
    samples = getattr(reader, "samples", None)
    if samples is not None and len(samples) and isinstance(samples[0][0], str):
        return _files(reader).source(positions)
    if samples is not None and len(samples) and hasattr(samples[0][0], "offset_data"):
        return _members(reader, positions)
    kind = dataset_kind(getattr(reader, "dataset", None))
    if kind is not None and not reader.remap_class:
        columns = [reader.image_key, reader.label_key]
        chosen = reader.dataset.select_columns([c for c in columns if c in reader.dataset.features])
        return from_dataset(chosen, kind, positions)
    raise ConfigError(
        f"timm's reader {type(reader).__name__} keeps no list of files; give the folder, the "
        "archives or the Hugging Face data set that it reads"
    )


def _files(reader: Any) -> Files:
    paths = [path for path, _ in reader.samples]
    labels = [int(label) for _, label in reader.samples]
    return Files(os.fspath(reader.root), paths, labels, _class_names(reader))


def _members(reader: Any, positions: Sequence[int] | None) -> "MemberSource":
    """The images of archives, also of archives in archives."""
    targets = getattr(reader, "targets", None)
    chosen = range(len(reader.samples)) if positions is None else positions
    entries, labels = [], []
    for i in chosen:
        info, *others = reader.samples[i]
        # (header, archive, header of the archive in it), or (header, class) of the older reader
        archive, inner = others if targets is not None else (None, None)
        name, offset = info.name, info.offset_data
        if inner is not None:
            name, offset = f"{inner.name}/{name}", offset + inner.offset_data
        key = os.fsencode(os.path.normpath(name).lstrip("/"))
        entries.append((archive or "", Member(key, offset, info.size)))
        labels.append(int(others[0] if targets is None else targets[i]))
    return MemberSource(os.fspath(reader.root), entries, labels, _class_names(reader))


def _class_names(reader: Any) -> list[str]:
    return names_by_id(getattr(reader, "class_to_idx", None) or reader.class_name_to_idx)


class MemberSource:
    """Images in tar archives; the key of an image is "ARCHIVE/MEMBER".

    Attributes:
        root: the folder of the archives, or the one archive.
        class_names: names in the order of the labels.

    Args:
        root: the folder, or one archive.
        entries: of each image the path of its archive below the folder, empty for the one archive,
            and the member.
        labels: the class of each image.
        class_names: names in the order of the labels.
    """

    def __init__(
        self,
        root: str,
        entries: Sequence[tuple[str, Member]],
        labels: Sequence[int],
        class_names: list[str],
    ) -> None:
        keys = [
            os.fsencode(archive or os.path.basename(root)) + b"/" + member.name
            for archive, member in entries
        ]
        require_unique(keys)
        order = sorted(range(len(keys)), key=keys.__getitem__)
        self.root = root
        self.class_names = class_names
        self._keys = [keys[i] for i in order]
        self._entries = [entries[i] for i in order]
        self._labels = [labels[i] for i in order]

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"MemberSource({self.root!r}, {len(self)} images, {len(self.class_names)} classes)"

    def key(self, i: int) -> bytes:
        """Archive below the root and member."""
        return self._keys[i]

    def label(self, i: int) -> int:
        """The class of image `i`."""
        return self._labels[i]

    def name(self, i: int) -> str:
        """Archive and member of image `i`, printable."""
        archive, member = self._entries[i]
        return f"{printable(os.fsencode(self._path(archive)))}/{printable(member.name)}"

    def read(self, i: int) -> bytes:
        """The encoded image `i`; raises ImageError."""
        archive, member = self._entries[i]
        return read_member(self._path(archive), member, self.name(i))

    def _path(self, archive: str) -> str:
        return os.path.join(self.root, archive) if archive else self.root
