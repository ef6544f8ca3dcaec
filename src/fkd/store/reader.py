"""Reading a label store: open a folder, find images by key, read crops and their labels.

Opening reads the manifest and the config; shards are mapped when first needed. Reading needs no
write access, copies what it returns, and compares every row that it reads with its checksum.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fkd.errors import DamagedStore, FormatError, MissingLabel, StoreMismatch
from fkd.labels.codecs import Codec
from fkd.store import files
from fkd.store.canonical import printable, sha256
from fkd.store.content import (
    LABELED,
    UNREADABLE,
    ImageFacts,
    LabeledCrops,
    LabeledImage,
    check_read,
)
from fkd.store.hub import locate
from fkd.store.manifest import MAX_COMMIT_BYTES, commit_name
from fkd.store.opening import Opened, read_store
from fkd.store.presence import NOT_HERE, Presence, are_within
from fkd.store.provenance import Provenance
from fkd.store.shard import Shard, read_crops


class LabelStore:
    """A label store on disk, read-only; see `LabelStore.open`.

    Rows number the images from 0 in the order of their keys. Of a *partial* store some shards are
    not there; its rows are those of the whole store, and all else speaks of the images that are
    there. Instances are cheap to pickle: a worker process opens the same store again, and refuses
    another one in its place.

    Attributes:
        path: the folder.
        config: the JSON object that identifies the store.
        root_hash: covers every byte, also of shards that are not there; None for an unfinished
            store.
        canaries: what some crops looked like to the teacher; of images that are there.
        environment: library versions and hardware that made the store.
        libraries: those of them on which the last bits of pixels depend.

    Example:
        >>> from fkd import LabelStore
        >>> store = LabelStore.open("labels")
        >>> len(store), store.num_crops, store.codec
        (15, 6, MarginalSmoothing(k=2))
        >>> image = store["bee/2.png"]  # all crops of one image
        >>> image.records.box.shape, image.decode().shape
        ((6, 4), torch.Size([6, 4]))
    """

    def __init__(self, path: Path, opened: Opened, check_reads: bool) -> None:
        self.path = path
        self.root_hash = opened.root_hash
        self.environment = opened.environment
        self.libraries = opened.libraries
        self._parsed = opened.config
        self._entries = {e.number: e for e in opened.shards if e.number in opened.there}
        self._presence = Presence(opened.config, opened.shards, opened.there)
        size = opened.config.images_per_shard
        self.canaries = tuple(c for c in opened.canaries if c.row // size in opened.there)
        self._check_reads = check_reads
        self._mapped: dict[int, Shard] = {}

    @staticmethod
    def open(
        path: str | os.PathLike[str], *, partial: bool = False, check_reads: bool = True
    ) -> "LabelStore":
        """Open the store in a folder, or in a repository of the hub.

        Args:
            path: the folder; or the address of a data set of the Hugging Face hub, such as
                "hf://datasets/org/name@revision", which is fetched into the hub's cache.
            partial: also accept a store of which only some shards are there, finished or not.
            check_reads: compare every row that is read with its checksum.

        Raises:
            FormatError: not a label store, or of a newer format.
            MissingLabel: shards are missing, and `partial` is not set.
            DamagedStore: the small files differ from their checksums.
            RemoteError: the hub refuses or does not answer, and the store is not in its cache.
        """
        folder = locate(path)
        return LabelStore(folder, read_store(folder, partial=partial), check_reads)

    @property
    def config(self) -> dict[str, Any]:
        """The JSON object that identifies the store."""
        return self._parsed.source

    @property
    def config_id(self) -> str:
        """SHA-256 of the canonical JSON of the config."""
        return self._parsed.config_id

    @property
    def num_images(self) -> int:
        """Images that are there, unreadable ones included."""
        return len(self.present_rows)

    @property
    def num_images_in_all(self) -> int:
        """Images in the whole store; its rows are below this number."""
        return self._parsed.num_images

    @property
    def num_shards(self) -> int:
        """Shards of the whole store."""
        return self._parsed.num_shards

    @property
    def is_partial(self) -> bool:
        """Whether some of its shards are not there."""
        return not self._presence.is_whole

    @cached_property
    def present_rows(self) -> np.ndarray:
        """The rows of the images that are there, ascending, int64 (num_images,)."""
        rows = self._presence.rows()
        rows.flags.writeable = False
        return rows

    @property
    def num_crops(self) -> int:
        """Crops stored per image, M."""
        return self._parsed.num_crops

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of its label maps, whose cells are the crops; None for real crops."""
        return self._parsed.grid

    @property
    def num_classes(self) -> int:
        """Classes of a decoded label, C; of features, their dimensions."""
        return self._parsed.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """The C classes in the order of their ids; none of features."""
        return self._parsed.class_names

    @property
    def is_of_classes(self) -> bool:
        """Whether the columns of decoded labels are classes; if not, they are features."""
        return bool(self._parsed.source.get("outputs", "classes") == "classes")

    @property
    def codec(self) -> Codec:
        """How labels are compressed."""
        return self._parsed.codec

    @property
    def value_dtype(self) -> str | None:
        """How values are stored; None where there are none, or only square roots."""
        return self._parsed.value_dtype

    @property
    def provenance(self) -> Provenance:
        """How the labels were made."""
        return self._parsed.provenance

    @property
    def num_bytes(self) -> int:
        """Bytes of the shards that are there."""
        return sum(entry.num_bytes for entry in self._entries.values())

    @property
    def commits_hash(self) -> str:
        """SHA-256 of what is known of the shards that are there.

        It stands for the root hash where a store is not finished.
        """
        entries = [self._entries[number] for number in self._presence.numbers]
        return sha256(b"".join(entry.commit(self.config_id) for entry in entries))

    @property
    def committed(self) -> list[range]:
        """The rows of each shard that is there, in order."""
        return self._presence.ranges()

    def __len__(self) -> int:
        return self.num_images

    def __iter__(self) -> Iterator[bytes]:
        for number in self._presence.numbers:
            yield from self._shard(number).keys()

    def __contains__(self, key: str | bytes) -> bool:
        """Whether an image of this key is there, readable or not."""
        return bool(self.find([os.fsencode(key)])[0] >= 0)

    def __repr__(self) -> str:
        dtype, images = self.value_dtype, f"{self.num_images:,} images"
        if self.is_partial:
            images += f" in {len(self.committed)} of {self.num_shards} shards"
        return (
            f"LabelStore({str(self.path)!r}: {images} x {self.num_crops} crops, "
            f"{self.codec.name}{f' {dtype}' if dtype else ''}, teacher {self._teachers()}, "
            f"{self.num_bytes:,} bytes of labels)"
        )

    def _teachers(self) -> str:
        names = [teacher.name for teacher in self.provenance.teachers if teacher.name is not None]
        return " + ".join(ascii(name)[1:-1] for name in names) or "unknown"

    def __reduce__(self) -> tuple[Callable[..., "LabelStore"], tuple[Any, ...]]:
        there = frozenset(self._presence.numbers)
        return _reopen, (self.path, self._check_reads, self.config_id, self.root_hash, there)

    def __getitem__(self, key: str | bytes) -> LabeledImage:
        name = os.fsencode(key)
        crops = self.read(self.rows([name]))
        height, width = crops.images.size[0].tolist()
        return LabeledImage(
            key=name,
            size=(height, width),
            records=crops.records[0],
            label=crops.label[0],
            codec=self.codec,
            num_classes=self.num_classes,
        )

    def rows(self, keys: Sequence[bytes]) -> np.ndarray:
        """The row of each key, int64 (n,).

        Raises:
            MissingLabel: a key is not there; says how many and which is the first.
            DamagedStore: the shard where that one should be is damaged, maybe its key.
        """
        rows = self.find(keys)
        missing = np.flatnonzero(rows < 0)
        if len(missing):
            if len(missing) == (rows == NOT_HERE).sum():
                raise MissingLabel(
                    f"{len(missing)} of {len(keys)} images are not in the "
                    f"{len(self.committed)} of {self.num_shards} shards of {self.path} that are "
                    f"there, the first is {printable(keys[missing[0]])}; get the other shards"
                )
            self._check_shard_of(keys[missing[0]])
            raise MissingLabel(
                f"{self.path} has no label for {len(missing)} of {len(keys)} images, the first is "
                f"{printable(keys[missing[0]])}; label the same images that you train on"
            )
        return rows

    def keys(self, rows: ArrayLike | slice = slice(None)) -> list[bytes]:
        """The keys of these rows; a slice is one of the images that are there."""
        if isinstance(rows, slice):
            rows = self.present_rows[rows]
        size = self._parsed.images_per_shard
        numbers, local = np.divmod(self._in_range(rows), size)
        return [
            self._shard(number).key(row)
            for number, row in zip(numbers.tolist(), local.tolist(), strict=True)
        ]

    def images(self, rows: ArrayLike, *, check: bool = True) -> ImageFacts:
        """What the store knows of the image files of these rows.

        Args:
            rows: (n,).
            check: compare the rows with their checksums, which reads all of them, as far as this
                store does so at all; without it, a damaged row may say anything.
        """
        return self._facts(self._in_range(rows), check and self._check_reads)

    def labeled(self, rows: ArrayLike) -> np.ndarray:
        """Whether each of these rows has labels, bool; False for images that could not be read.

        Quick for whole stores: only the rows without labels are compared with their checksums. A
        row that is damaged into seeming labeled is found when its labels are read.
        """
        wanted = self._in_range(rows)
        labeled: np.ndarray = self._facts(wanted, check=False).status == LABELED
        self.images(wanted[~labeled])
        return labeled

    def read(self, rows: ArrayLike, crops: ArrayLike | None = None) -> LabeledCrops:
        """Crops and labels of many images at once.

        Args:
            rows: (B,), from `rows`; repeats are fine.
            crops: (B, m), which crops of each image, in [0, M); None for all of them.

        Raises:
            DamagedStore: a row differs from its checksum; names the file and the image.
            FormatError: a label holds what no label may hold.
            MissingLabel: an image could not be read when the store was made, or has no label yet.
            IndexError: a row or crop number is out of range.
        """
        wanted = self._in_range(rows).tolist()
        chosen = self._crops_in_range(crops, len(wanted))
        size = self._parsed.images_per_shard
        shards, local = [self._shard(row // size) for row in wanted], [row % size for row in wanted]
        try:
            read = read_crops(self._parsed, shards, local, chosen, self._check_reads)
            self._require_labels(wanted, read)
            check_read(self._parsed, read)
        except (FormatError, ValueError) as error:
            raise FormatError(f"{self.path}: {error}; get the store again") from error
        return read

    def _facts(self, rows: np.ndarray, check: bool) -> ImageFacts:
        """Facts of rows in range, shard by shard."""
        facts = ImageFacts.zeros(len(rows))
        numbers, local = np.divmod(rows, self._parsed.images_per_shard)
        order = np.argsort(numbers, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1):
            if len(group):
                shard = self._shard(int(numbers[group[0]]))
                if check:
                    shard.check(local[group].tolist())
                facts.put(group, shard.facts(local[group]))
        if (facts.status > UNREADABLE).any():
            raise FormatError(f"{self.path}: the status of an image is neither 0 nor 1")
        return facts

    def find(self, keys: Sequence[bytes]) -> np.ndarray:
        """The row of each key, int64 (n,); UNKNOWN for one that the store does not have, NOT_HERE
        for one that may be in a shard that is not there."""
        return self._presence.find(keys, self._shard)

    def _check_shard_of(self, key: bytes) -> None:
        number = self._presence.shard_of(key)
        if number >= 0:
            shard = self._shard(number)
            shard.check(range(len(shard)))

    def _require_labels(self, rows: Sequence[int], read: LabeledCrops) -> None:
        """Refuse unreadable images."""
        if np.count_nonzero(read.images.status):
            unlabeled = np.flatnonzero(read.images.status != LABELED)
            raise MissingLabel(
                f"{self.path} has no labels for {len(unlabeled)} of these images, because they "
                f"could not be read; the first is {printable(self.keys([rows[unlabeled[0]]])[0])}"
            )

    def _in_range(self, rows: Any) -> np.ndarray:
        wanted = np.asarray(rows, np.int64).reshape(-1)
        if not are_within(wanted, self.num_images_in_all):
            raise IndexError(f"rows must lie in [0, {self.num_images_in_all}) for {self.path}")
        return wanted

    def _crops_in_range(self, crops: ArrayLike | None, num_rows: int) -> np.ndarray:
        if crops is None:
            return np.broadcast_to(np.arange(self.num_crops), (num_rows, self.num_crops))
        chosen = np.asarray(crops, np.int64)
        if chosen.ndim != 2 or len(chosen) != num_rows:
            raise IndexError(f"crops must have the shape ({num_rows}, m), not {chosen.shape}")
        if not are_within(chosen, self.num_crops):
            raise IndexError(f"crops must lie in [0, {self.num_crops}) for {self.path}")
        return chosen

    def _shard(self, number: int) -> Shard:
        """A shard, mapped on first use."""
        shard = self._mapped.get(number)
        return self._map(number) if shard is None else shard

    def _map(self, number: int) -> Shard:
        if number not in self._entries:
            raise MissingLabel(
                f"shard {number} of {self.path} is not there, {len(self._entries)} of "
                f"{self.num_shards} are; get or label it, or use present_rows only"
            )
        entry = self._entries[number]
        commit = files.read(self.path, commit_name(number), MAX_COMMIT_BYTES)
        if commit != entry.commit(self.config_id):
            raise DamagedStore(
                f"{self.path / commit_name(number)} was changed; {files.repair_hint(self.path)}"
            )
        self._mapped[number] = Shard(self.path, self._parsed, entry)
        return self._mapped[number]


def _reopen(
    path: Path, check_reads: bool, config_id: str, root_hash: str | None, there: frozenset[int]
) -> LabelStore:
    """Open a store again in another process, with the same shards, and make sure that it is it."""
    opened = read_store(path, partial=True)
    if (opened.config.config_id, opened.root_hash) != (config_id, root_hash):
        raise StoreMismatch(f"{path} was replaced by another store while it was in use")
    if there - opened.there:
        raise MissingLabel(f"{path} has lost {len(there - opened.there)} shards while in use")
    return LabelStore(path, replace(opened, there=there), check_reads)
