"""How large a finished store will be, before anything is labeled."""

import math
from collections.abc import Mapping
from typing import Any

from fkd.labels.quantization import VALUE_DTYPES
from fkd.store import canonical
from fkd.store.config import StoreConfig
from fkd.store.layout import build_header, columns_of, metadata_of, place
from fkd.store.manifest import Manifest, ShardEntry
from fkd.store.packing import fields_of

_DIGEST = "0" * 64
_CLASSES_PER_KEPT = 8  # an image's crops name 38 classes where each keeps 5
_THUMBNAIL = "A" * 256  # 192 bytes in base64


def predict_num_bytes(
    config: Mapping[str, Any],
    mean_key_length: float,
    *,
    num_canaries: int = 0,
    environment: Mapping[str, Any] | None = None,
) -> int:
    """Bytes of all files of the finished store; of a plain one within 2 % of the truth.

    How small compact labels become depends on what the teacher says: that is an estimate, from
    EfficientNet-Lite0 on photographs (ms:5), and may be off by a third for other teachers.

    Args:
        config: the store's config.
        mean_key_length: mean bytes of a key.
        num_canaries: entries {"crop", "row", "sha256", "thumbnail"} in the manifest.
        environment: what `StoreWriter.finish` will be given.
    """
    parsed = StoreConfig.parse(dict(config), "the config")
    last = parsed.num_shards - 1
    typical = _entry(parsed, last // 2, mean_key_length)
    tail = _entry(parsed, last, mean_key_length)
    canaries = [_canary(parsed)] * num_canaries
    without_shards = Manifest(parsed.config_id, (), dict(environment or {}), canaries)
    return (
        last * _bytes_of(typical, parsed)
        + _bytes_of(tail, parsed)
        + len(without_shards.encode())
        + len(canonical.encode(parsed.source))
    )


def _entry(config: StoreConfig, number: int, mean_key_length: float) -> ShardEntry:
    """A shard of the right size, with placeholders for checksums and key."""
    first, stop = config.shard_range(number)
    images = stop - first
    records = images * _typical_record_bytes(config) if config.compact else 0
    placed = place(columns_of(config, False), images, round(images * mean_key_length), records)
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


def _typical_record_bytes(config: StoreConfig) -> int:
    """Bytes of a packed record, rounded up."""
    k, m = config.num_ids, config.num_crops
    num_ids = min(config.num_classes, k * m, _CLASSES_PER_KEPT * k)
    bits: dict[str, float] = {"crop.box": 9, "crop.flip": 1}
    bits["label.index"] = math.log2(max(1, num_ids)) - 0.5  # the first rank needs fewer
    bits["label.value"] = _typical_value_bits(config)
    fields = fields_of(config)
    row = sum(f.count * bits.get(f.column, 8 * min(4, f.dtype.itemsize)) for f in fields)
    dictionary = num_ids * (config.num_classes - 1).bit_length()
    return math.ceil(sum(f.count for f in fields) + 4 + (dictionary + m * row) / 8)


def _typical_value_bits(config: StoreConfig) -> float:
    if config.levels is not None:
        k = config.num_ids  # one number is a single bit, and the first share has the largest code
        return (1 + k * (math.log2(config.levels) - 1)) / (k + 1)
    if config.value_dtype is None:
        return 0.0
    share = 0.75 if config.codec.stores == "probabilities" else 1.0
    return share * 8 * VALUE_DTYPES[config.value_dtype].itemsize


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
