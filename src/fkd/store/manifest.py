"""The small JSON files around the shards: config.json, commits/*.json and manifest.json.

    config.json         the config alone; written first
    commits/00000.json  a shard is complete: its checksums and what it holds
    manifest.json       all shards are complete; written last, makes the folder a finished store

Here they are values and bytes; where they lie on disk and when they are written is the business of
`writer` and `reader`.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from fkd.errors import DamagedStore, FormatError
from fkd.store import canonical
from fkd.store.canonical import Fields
from fkd.store.config import FORMAT, MAX_IMAGES, StoreConfig, require_version
from fkd.store.keys import percent_decode, percent_encode

CONFIG, MANIFEST, LOCK = "config.json", "manifest.json", "lock"
SHARDS, COMMITS, QUARANTINE = "shards", "commits", "quarantine"
# What a reader is willing to load into memory.
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
    """The shard that a file name such as "00012.json" means; None for every other name."""
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


def parse_commit(data: bytes, number: int, config: StoreConfig, file: str) -> ShardEntry:
    """The entry that a commit file holds.

    Raises:
        DamagedStore: the bytes are not canonical.
        FormatError: a field is odd, or the commit belongs to another config.
    """
    fields = Fields(canonical.decode(data, file), file)
    entry = _parse_entry(fields, number, config, file)
    if fields.digest("config_id") != config.config_id:
        raise FormatError(f"{file} belongs to a store with another config; it was copied here")
    if entry.commit(config.config_id) != data:
        raise FormatError(f"{file} has fields that this version does not know")
    return entry


def _parse_entry(fields: Fields, number: int, config: StoreConfig, file: str) -> ShardEntry:
    entry = ShardEntry(
        number=number,
        num_bytes=fields.integer("bytes", 8, _MAX_SHARD_BYTES),
        sha256=fields.digest("sha256"),
        header_sha256=fields.digest("header_sha256"),
        first_image=fields.integer("first_image", 0, MAX_IMAGES),
        num_images=fields.integer("num_images", 1, MAX_IMAGES),
        first_key=percent_decode(fields.text("first_key"), file),
    )
    found = (entry.first_image, entry.first_image + entry.num_images)
    if found != config.shard_range(number):
        raise FormatError(
            f"{file}: shard {number} holds images {found[0]} to {found[1] - 1}, which the config "
            "puts elsewhere"
        )
    return entry


@dataclass(frozen=True)
class Manifest:
    """A finished store on one page.

    Attributes:
        config: its identity and layout.
        shards: one entry per shard, in order.
        environment: library versions and hardware of the last run; informational.
        canaries: what some crops looked like to the teacher; see `fkd.labeling`.
    """

    config: StoreConfig
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
            "config": self.config.source,
            "config_id": self.config.config_id,
            "environment": self.environment,
            "format": FORMAT,
            "format_version": self.config.format_version,
            "shards": [entry.in_manifest() for entry in self.shards],
        }

    @staticmethod
    def parse(data: bytes, file: str) -> "Manifest":
        """Read the bytes of manifest.json.

        Raises:
            DamagedStore: the bytes differ from their root hash, or are not canonical.
            FormatError: not a manifest, a newer version, or fields that contradict each other.
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
        require_version(fields.integer("format_version", 1, 1 << 30), file)
        config = StoreConfig.parse(fields.members("config"), f"{file}: config")
        manifest = Manifest(
            config=config,
            shards=_parse_shards(fields.items("shards"), config, file),
            environment=fields.members("environment"),
            canaries=fields.items("canaries"),
        )
        if manifest.encode() != data:
            raise FormatError(f"{file} has fields that contradict its config or are unknown")
        return manifest


def _parse_shards(items: list[Any], config: StoreConfig, file: str) -> tuple[ShardEntry, ...]:
    if len(items) != config.num_shards:
        raise FormatError(f"{file} lists {len(items)} shards, its config has {config.num_shards}")
    entries = tuple(
        _parse_entry(Fields(item, f"{file}: shards.{i}"), i, config, f"{file}: shards.{i}")
        for i, item in enumerate(items)
    )
    for before, after in pairwise(entries):
        if before.first_key >= after.first_key:
            raise FormatError(f"{file}: the first keys of its shards are not ascending")
    return entries
