"""The small JSON files around the shards: config.json, commits/*.json and manifest.json.

    config.json         the config alone; written first
    commits/00000.json  a shard is complete: its checksums and what it holds
    manifest.json       all shards are complete; written last, makes the folder a finished store

Values, their exact bytes, and how they are read from a store's folder and checked.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from fkd.errors import DamagedStore, FormatError
from fkd.store import canonical, files
from fkd.store.canonical import Fields, percent_decode, percent_encode
from fkd.store.config import FORMAT, FORMAT_VERSION, MAX_IMAGES, StoreConfig, require_version
from fkd.store.layout import least_bytes
from fkd.store.provenance import parse_canaries, parse_libraries

CONFIG, MANIFEST, LOCK = "config.json", "manifest.json", "lock"
SHARDS, COMMITS, QUARANTINE = "shards", "commits", "quarantine"
ENVIRONMENT = "environment.json"
"""What made the shards of a folder that has only some of them; see `fkd.store.merge`."""

# A larger file is refused before it is read.
MAX_CONFIG_BYTES, MAX_COMMIT_BYTES, MAX_MANIFEST_BYTES = 1 << 26, 1 << 16, 1 << 28
_MAX_SHARD_BYTES = 1 << 50
_NUMBER = re.compile("[0-9]{5,15}")


def shard_name(number: int) -> str:
    """For example "shards/00000.safetensors"."""
    return f"{SHARDS}/{number:05d}.safetensors"


def commit_name(number: int) -> str:
    """For example "commits/00000.json"."""
    return f"{COMMITS}/{number:05d}.json"


def number_of(leaf: str, suffix: str) -> int | None:
    """The shard that a file name such as "00012.json" means; None for each other name."""
    stem = leaf.removesuffix(suffix)
    if not _NUMBER.fullmatch(stem) or f"{int(stem):05d}{suffix}" != leaf:
        return None
    return int(stem)


@dataclass(frozen=True)
class ShardEntry:
    """What the commit and the manifest say about one shard."""

    number: int
    num_bytes: int
    sha256: str
    header_sha256: str
    first_image: int
    num_images: int
    first_key: bytes

    @property
    def file(self) -> str:
        """Name of the shard's file in the store."""
        return shard_name(self.number)

    def commit(self, config_id: str) -> bytes:
        """The exact bytes of this shard's commit file."""
        return canonical.encode(self._members() | {"config_id": config_id})

    def in_manifest(self) -> dict[str, Any]:
        """This shard's item of the manifest's list."""
        return self._members() | {"file": self.file}

    def _members(self) -> dict[str, Any]:
        return {
            "bytes": self.num_bytes,
            "first_image": self.first_image,
            "first_key": percent_encode(self.first_key),
            "header_sha256": self.header_sha256,
            "num_images": self.num_images,
            "sha256": self.sha256,
        }

    @staticmethod
    def parse(fields: Fields, number: int, file: str) -> "ShardEntry":
        """Read the members that commit and manifest share.

        Raises:
            FormatError: a field is missing or malformed.
        """
        return ShardEntry(
            number=number,
            num_bytes=fields.integer("bytes", 8, _MAX_SHARD_BYTES),
            sha256=fields.digest("sha256"),
            header_sha256=fields.digest("header_sha256"),
            first_image=fields.integer("first_image", 0, MAX_IMAGES),
            num_images=fields.integer("num_images", 1, MAX_IMAGES),
            first_key=percent_decode(fields.text("first_key"), file),
        )

    def require_range(self, config: StoreConfig, file: str) -> None:
        """Make sure that the shard holds the images that the config puts there.

        Raises:
            FormatError: it holds others.
        """
        stop = self.first_image + self.num_images
        if (self.first_image, stop) != config.shard_range(self.number):
            raise FormatError(
                f"{file}: shard {self.number} holds images {self.first_image} to {stop - 1}, "
                "which the config puts elsewhere"
            )
        if self.num_bytes < (least := least_bytes(config, self.num_images)):
            raise FormatError(
                f"{file}: shard {self.number} has {self.num_bytes:,} bytes, but "
                f"{self.num_images:,} images take at least {least:,}"
            )


@dataclass(frozen=True)
class Manifest:
    """What manifest.json says: the shards of a finished store, and how it was made.

    Attributes:
        config_id: SHA-256 of config.json.
        shards: one entry per shard, in order.
        environment: library versions and hardware of the last run; informational.
        canaries: what some crops looked like to the teacher; see `fkd.store.provenance`.
    """

    config_id: str
    shards: tuple[ShardEntry, ...]
    environment: dict[str, Any]
    canaries: list[Any]

    @cached_property
    def root_hash(self) -> str:
        """SHA-256 of the canonical manifest without this field: covers every byte of the store."""
        return canonical.sha256(canonical.encode(self._members()))

    def encode(self) -> bytes:
        """The exact bytes of manifest.json."""
        return canonical.encode(self._members() | {"root_hash": self.root_hash})

    def _members(self) -> dict[str, Any]:
        return {
            "canaries": self.canaries,
            "config_id": self.config_id,
            "environment": self.environment,
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "shards": [entry.in_manifest() for entry in self.shards],
        }

    @staticmethod
    def parse(data: bytes, file: str) -> "Manifest":
        """Read the bytes of manifest.json.

        Raises:
            DamagedStore: the bytes differ from their root hash, or are not canonical.
            FormatError: not a manifest, a newer version, or malformed fields.
        """
        value = canonical.decode(data, file)
        fields = Fields(value, file)
        if fields.text("format") != FORMAT:
            raise FormatError(f"{file} is not the manifest of a label store")
        root_hash = fields.digest("root_hash")
        rest = {name: value[name] for name in value if name != "root_hash"}
        if canonical.sha256(canonical.encode(rest)) != root_hash:
            raise DamagedStore(f"{file} was changed: its root hash differs; restore it from a copy")
        # After the hash: a flipped bit in the version is damage, not a newer format.
        require_version(fields, file)
        manifest = Manifest(
            config_id=fields.digest("config_id"),
            shards=tuple(
                ShardEntry.parse(Fields(item, f"{file}: shards.{i}"), i, f"{file}: shards.{i}")
                for i, item in enumerate(fields.items("shards"))
            ),
            environment=fields.members("environment"),
            canaries=fields.items("canaries"),
        )
        if manifest.encode() != data:
            raise FormatError(f"{file} has fields that contradict each other or are unknown")
        return manifest

    def require_fits(self, config: StoreConfig, file: str) -> None:
        """Make sure that the shards are those of a config, and the other members what they must be.

        Raises:
            DamagedStore: the config is another one.
            FormatError: the shards contradict it; canaries or environment are malformed.
        """
        if config.config_id != self.config_id:
            raise DamagedStore(f"{file} belongs to another {CONFIG}; restore both from a copy")
        if len(self.shards) != config.num_shards:
            raise FormatError(
                f"{file} lists {len(self.shards)} shards, its config has {config.num_shards}"
            )
        for entry in self.shards:
            entry.require_range(config, f"{file}: shards.{entry.number}")
        if any(a.first_key >= b.first_key for a, b in pairwise(self.shards)):
            raise FormatError(f"{file}: the first keys of its shards are not ascending")
        parse_canaries(self.canaries, config.num_images, config.num_crops, file)
        parse_libraries(self.environment, file)


def read_finished(folder: Path) -> tuple[Manifest, StoreConfig]:
    """Manifest and config of a finished store, which must agree.

    Raises:
        DamagedStore: one of the two files is missing or differs from its checksum.
        FormatError: malformed, or of a newer format.
    """
    manifest = read_manifest(folder)
    config = read_config(folder, manifest.config_id)
    manifest.require_fits(config, str(folder / MANIFEST))
    return manifest, config


def read_manifest(folder: Path) -> Manifest:
    """The manifest alone; errors as for `Manifest.parse`."""
    data = files.read(folder, MANIFEST, MAX_MANIFEST_BYTES)
    return Manifest.parse(data, str(folder / MANIFEST))


def read_config(folder: Path, config_id: str | None = None) -> StoreConfig:
    """The config of a store that may be unfinished.

    Args:
        folder: of the store.
        config_id: SHA-256 that the file must have.

    Raises:
        DamagedStore: missing, not canonical, or another file than `config_id` says.
        FormatError: a field is malformed.
    """
    file, data = str(folder / CONFIG), files.read(folder, CONFIG, MAX_CONFIG_BYTES)
    if config_id is not None and canonical.sha256(data) != config_id:
        raise DamagedStore(f"{file} differs from {MANIFEST}; {files.repair_hint(folder)}")
    return StoreConfig.parse(canonical.decode(data, file), file)


def read_commits(folder: Path, config: StoreConfig) -> list[ShardEntry]:
    """The committed shards, by number.

    Raises:
        DamagedStore: a commit is not canonical.
        FormatError: a commit does not belong to this config, or to no shard at all.
    """
    numbers = (number_of(leaf, ".json") for leaf in files.names(folder, COMMITS))
    return [read_commit(folder, config, n) for n in sorted(n for n in numbers if n is not None)]


def read_commit(folder: Path, config: StoreConfig, number: int) -> ShardEntry:
    """The entry of one committed shard; errors as for `read_commits`."""
    name = commit_name(number)
    file = str(folder / name)
    if number >= config.num_shards:
        raise FormatError(f"{file} belongs to no shard of this store; move it away")
    data = files.read(folder, name, MAX_COMMIT_BYTES)
    fields = Fields(canonical.decode(data, file), file)
    entry = ShardEntry.parse(fields, number, file)
    entry.require_range(config, file)
    if fields.digest("config_id") != config.config_id:
        raise FormatError(f"{file} belongs to a store with another config; it was copied here")
    if entry.commit(config.config_id) != data:
        raise FormatError(f"{file} has fields that this version does not know")
    return entry
