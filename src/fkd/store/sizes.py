"""How large a finished store will be, before anything is labelled."""

from collections.abc import Mapping
from typing import Any

from fkd.store import canonical
from fkd.store.config import StoreConfig
from fkd.store.layout import build_header, columns_of, metadata_of, place
from fkd.store.manifest import Manifest, ShardEntry

_DIGEST = "0" * 64
_CANARIES = 64
_THUMBNAIL = "A" * 256  # 192 bytes in base64


def predict_num_bytes(
    config: Mapping[str, Any],
    mean_key_length: float,
    *,
    num_canaries: int | None = None,
    environment: Mapping[str, Any] | None = None,
) -> int:
    """Bytes of all files of the finished store; within 2 % of the truth.

    Args:
        config: the store's config.
        mean_key_length: mean bytes of a key.
        num_canaries: entries {"crop", "row", "sha256", "thumbnail"} in the manifest; by default
            64, or one an image where there are fewer.
        environment: what `StoreWriter.finish` will be given.
    """
    parsed = StoreConfig.parse(dict(config), "the config")
    last = parsed.num_shards - 1
    typical = _entry(parsed, last // 2, mean_key_length)
    tail = _entry(parsed, last, mean_key_length)
    canaries = min(_CANARIES, parsed.num_images) if num_canaries is None else num_canaries
    without_shards = Manifest(parsed, (), dict(environment or {}), [_canary(parsed)] * canaries)
    return (
        last * _bytes_of(typical, parsed)
        + _bytes_of(tail, parsed)
        + len(without_shards.encode())
        + len(canonical.encode(parsed.source))
    )


def _entry(config: StoreConfig, number: int, mean_key_length: float) -> ShardEntry:
    """A shard of the right size; its checksums and its key are made up."""
    first, stop = config.shard_range(number)
    placed = place(columns_of(config, False), stop - first, round((stop - first) * mean_key_length))
    header = build_header(placed, metadata_of(config.config_id, first))
    return ShardEntry(
        number=number,
        num_bytes=len(header) + max(array.stop for array in placed.values()),
        sha256=_DIGEST,
        header_sha256=_DIGEST,
        first_image=first,
        num_images=stop - first,
        first_key=b"k" * round(mean_key_length),
    )


def _bytes_of(entry: ShardEntry, config: StoreConfig) -> int:
    """Bytes of a shard, of its commit, and of its item (with a comma) in the manifest."""
    listed = len(canonical.encode(entry.in_manifest()))
    return entry.num_bytes + len(entry.commit(config.config_id)) + listed


def _canary(config: StoreConfig) -> dict[str, Any]:
    """An entry as `fkd label` writes it, with row and crop numbers of typical length."""
    return {
        "crop": config.num_crops // 2,
        "row": config.num_images // 2,
        "sha256": _DIGEST,
        "thumbnail": _THUMBNAIL,
    }
