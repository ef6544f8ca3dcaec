"""Reading a label store: open a folder, find images by key, read crops and their labels.

Opening reads the manifest and the config; shards are mapped when first needed. Reading needs no
write access, copies what it returns, and compares every row that it reads with its checksum.
"""

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fkd.errors import DamagedStore, FormatError, MissingLabel, StoreMismatch
from fkd.labels.codecs import Codec
from fkd.store import files
from fkd.store.canonical import keys_digest, printable
from fkd.store.content import (
    LABELED,
    UNREADABLE,
    ImageFacts,
    LabeledCrops,
    LabeledImage,
    check_read,
)
from fkd.store.hub import locate
from fkd.store.join import Fingerprint, describe_mismatch, describe_replaced
from fkd.store.manifest import MAX_COMMIT_BYTES, commit_name
from fkd.store.opening import Opened, read_store
from fkd.store.provenance import Provenance
from fkd.store.shard import Shard, read_crops


class LabelStore:
    """A label store on disk, read-only; see `LabelStore.open`.

    Rows number the images from 0 in the order of their keys. Instances are cheap to pickle: a
    worker process opens the same store again, and refuses another one in its place.

    Attributes:
        path: the folder.
        config: the JSON object that identifies the store.
        root_hash: covers every byte; None for an unfinished store.
        canaries: what some crops looked like to the teacher.
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
        self.canaries = opened.canaries
        self.environment = opened.environment
        self.libraries = opened.libraries
        self._parsed = opened.config
        self._entries = {entry.number: entry for entry in opened.shards}
        self._numbers = sorted(self._entries)
        self._first_keys = [self._entries[number].first_key for number in self._numbers]
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
            partial: also accept a store that is not finished, for looking at it.
            check_reads: compare every row that is read with its checksum.

        Raises:
            FormatError: not a label store, or of a newer format.
            MissingLabel: not finished, and `partial` is not set.
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
        """Images in the store, unreadable ones included."""
        return self._parsed.num_images

    @property
    def num_crops(self) -> int:
        """M: crops stored per image."""
        return self._parsed.num_crops

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of its label maps, whose cells are the crops; None for real crops."""
        return self._parsed.grid

    @property
    def num_classes(self) -> int:
        """C: classes of a decoded label; of features, their dimensions."""
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
        """Bytes of all shards."""
        return sum(entry.num_bytes for entry in self._entries.values())

    @property
    def committed(self) -> list[range]:
        """The rows of each shard that is there, in order."""
        return [range(*self._parsed.shard_range(number)) for number in self._numbers]

    def __len__(self) -> int:
        return self.num_images

    def __iter__(self) -> Iterator[bytes]:
        for number in self._numbers:
            yield from self._shard(number).keys()

    def __contains__(self, key: str | bytes) -> bool:
        """Whether an image of this key is in the store, readable or not."""
        return bool(self._find([os.fsencode(key)])[0] >= 0)

    def __repr__(self) -> str:
        dtype = self.value_dtype
        return (
            f"LabelStore({str(self.path)!r}: {self.num_images:,} images x {self.num_crops} crops, "
            f"{self.codec.name}{f' {dtype}' if dtype else ''}, teacher {self._teachers()}, "
            f"{self.num_bytes:,} bytes)"
        )

    def _teachers(self) -> str:
        names = [teacher.name for teacher in self.provenance.teachers if teacher.name is not None]
        return " + ".join(ascii(name)[1:-1] for name in names) or "unknown"

    def __reduce__(self) -> tuple[Callable[..., "LabelStore"], tuple[Any, ...]]:
        return _reopen, (self.path, self._check_reads, self.config_id, self.root_hash)

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
            MissingLabel: a key is not in the store; says how many and which is the first.
            DamagedStore: the shard where that one should be is damaged, maybe its key.
        """
        rows = self._find(keys)
        missing = np.flatnonzero(rows < 0)
        if len(missing):
            self._check_shard_of(keys[missing[0]])
            raise MissingLabel(
                f"{self.path} has no label for {len(missing)} of {len(keys)} images, the first is "
                f"{printable(keys[missing[0]])}; label the same images that you train on"
            )
        return rows

    def keys(self, rows: ArrayLike | slice = slice(None)) -> list[bytes]:
        """The keys of these rows."""
        if isinstance(rows, slice):
            rows = range(*rows.indices(self.num_images))
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

    def join(
        self,
        keys: Sequence[bytes],
        *,
        num_bytes: Sequence[int] | None = None,
        fingerprint: Fingerprint | None = None,
    ) -> None:
        """Make sure that a source has exactly the images of the store.

        Both are in ascending order of their keys, so that the position of an image in the source is
        its row in the store. (A source of some of the images would need a row for each: here.)

        Args:
            keys: the keys of the source, ascending.
            num_bytes: lengths of the image files; with them, replaced images are found.
            fingerprint: (crc32, length) of the file of a key; with it, renamed images are told
                from missing ones. It is called for unknown images only.

        Raises:
            StoreMismatch: images are renamed, missing, extra or replaced; names the first of each.
        """
        if keys_digest(keys) != self._parsed.keys_sha256:
            reason = describe_mismatch(self.keys(), keys, self.images, fingerprint)
            raise StoreMismatch(f"{self.path} does not fit these images: {reason}")
        if num_bytes is None:
            return
        # Checking every row would read the whole store; only those that differ are compared.
        facts = self._facts(np.arange(self.num_images), check=False)
        differs = (facts.num_bytes != np.asarray(num_bytes)) & (facts.status == LABELED)
        if differs.any():
            replaced = np.flatnonzero(differs)
            self.images(replaced)
            reason = describe_replaced([keys[row] for row in replaced.tolist()])
            raise StoreMismatch(f"{self.path} does not fit these images: {reason}")

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

    def _find(self, keys: Sequence[bytes]) -> np.ndarray:
        """The row of each key, -1 for unknown ones."""
        groups: dict[int | None, list[int]] = {}
        for position, key in enumerate(keys):
            groups.setdefault(self._number_of(key), []).append(position)
        rows = np.full(len(keys), -1, np.int64)
        for number, positions in groups.items():
            if number is not None:
                shard = self._shard(number)
                local = shard.find([keys[position] for position in positions])
                rows[positions] = np.where(local < 0, -1, local + shard.entry.first_image)
        return rows

    def _number_of(self, key: bytes) -> int | None:
        """The only shard that can hold a key; None before the first."""
        index = bisect_right(self._first_keys, key) - 1
        return self._numbers[index] if index >= 0 else None

    def _check_shard_of(self, key: bytes) -> None:
        number = self._number_of(key)
        if number is not None:
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
        if not _within(wanted, self.num_images):
            raise IndexError(f"rows must lie in [0, {self.num_images}) for {self.path}")
        return wanted

    def _crops_in_range(self, crops: ArrayLike | None, num_rows: int) -> np.ndarray:
        if crops is None:
            return np.broadcast_to(np.arange(self.num_crops), (num_rows, self.num_crops))
        chosen = np.asarray(crops, np.int64)
        if chosen.ndim != 2 or len(chosen) != num_rows:
            raise IndexError(f"crops must have the shape ({num_rows}, m), not {chosen.shape}")
        if not _within(chosen, self.num_crops):
            raise IndexError(f"crops must lie in [0, {self.num_crops}) for {self.path}")
        return chosen

    def _shard(self, number: int) -> Shard:
        """A shard, mapped on first use."""
        shard = self._mapped.get(number)
        return self._map(number) if shard is None else shard

    def _map(self, number: int) -> Shard:
        if number not in self._entries:
            raise MissingLabel(
                f"shard {number} of {self.path} is not labeled yet; run the label command again"
            )
        entry = self._entries[number]
        commit = files.read(self.path, commit_name(number), MAX_COMMIT_BYTES)
        if commit != entry.commit(self.config_id):
            raise DamagedStore(
                f"{self.path / commit_name(number)} was changed; {files.repair_hint(self.path)}"
            )
        self._mapped[number] = Shard(self.path, self._parsed, entry)
        return self._mapped[number]


def _within(numbers: np.ndarray, limit: int) -> bool:
    """Whether all of these int64 lie in [0, limit)."""
    listed = numbers.ravel().tolist()  # sooner checked than an array, of the few of a batch
    return not listed or (min(listed) >= 0 and max(listed) < limit)


def _reopen(path: Path, check_reads: bool, config_id: str, root_hash: str | None) -> LabelStore:
    """Open a store again in another process, and make sure that it is the same one."""
    store = LabelStore.open(path, partial=root_hash is None, check_reads=check_reads)
    if (store.config_id, store.root_hash) != (config_id, root_hash):
        raise StoreMismatch(f"{path} was replaced by another store while it was in use")
    return store
