"""How the content of a shard is checked, and becomes the bytes of a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fkd.labels.quantization import quantize
from fkd.store.canonical import sha256
from fkd.store.compact import pack_record
from fkd.store.config import StoreConfig
from fkd.store.geometry import draw_geometry, geometry_crc32, grid_boxes
from fkd.store.keys import MAX_KEY_BYTES
from fkd.store.layout import Placed, build_header, columns_of, metadata_of, place
from fkd.store.rows import Rows
from fkd.store.stored import LABELED, UNREADABLE, LabeledCrops

_MAX_U16 = 65535


@dataclass(frozen=True)
class ShardBytes:
    """A shard's file, and the checksums of it that its commit repeats."""

    data: bytes
    sha256: str
    header_sha256: str


def encode_shard(
    config: StoreConfig, first_image: int, keys: Sequence[bytes], crops: LabeledCrops
) -> ShardBytes:
    """The bytes of a shard; a function of its arguments alone.

    The rows of unreadable images are stored as zeros, whatever is given there.

    Raises:
        ValueError: arrays do not fit the config, or hold what no label may hold.
    """
    check_content(config, keys, crops)
    wide_boxes = bool(np.max(crops.images.size, initial=0) > _MAX_U16)
    columns = columns_of(config, wide_boxes)
    given = _arrays(config, keys, crops)
    lengths = (given[name].size for name in ("key.bytes", "record.bytes") if name in given)
    placed = place(columns, len(keys), *lengths)
    metadata = metadata_of(config.config_id, first_image, config.format_version)
    header = build_header(placed, metadata)
    file = bytearray(header) + bytes(max(column.stop for column in placed.values()))
    data = memoryview(file)[len(header) :]
    for name, array in given.items():
        _put(data, placed[name], array)
    rows = Rows(config, memoryview(file), 1)
    rows.add(0, len(header), placed)
    numbers = np.arange(len(keys))
    located = rows.locate(np.zeros_like(numbers), numbers)
    _put(data, placed["record.crc32"], rows.checksums(located))
    return ShardBytes(bytes(file), sha256(file), sha256(header))


def _put(data: memoryview, column: Placed, array: np.ndarray) -> None:
    stored = np.ascontiguousarray(array, column.dtype)
    data[column.start : column.stop] = stored.reshape(-1).view(np.uint8).data


def _arrays(
    config: StoreConfig, keys: Sequence[bytes], content: LabeledCrops
) -> dict[str, np.ndarray]:
    """Every column but the checksum; rows of unreadable images are zero."""
    images = content.images
    facts = {
        "image.crc32": images.crc32,
        "image.bytes": images.num_bytes,
        "image.size": images.size,
    }
    crops = _crop_arrays(config, content)
    unreadable = images.status != LABELED
    if unreadable.any():
        facts, crops = _zeroed(facts, unreadable), _zeroed(crops, unreadable)
    packed = _packed(config, crops, ~unreadable) if config.compact else _columns(config, crops)
    return (
        facts
        | packed
        | {
            "image.status": images.status,
            "key.offset": np.cumsum([0, *map(len, keys)]),
            "key.bytes": np.frombuffer(b"".join(keys), np.uint8),
        }
    )


def _zeroed(arrays: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Copies with zeros in some rows."""
    copies = {name: array.copy() for name, array in arrays.items()}
    for array in copies.values():
        array[rows] = 0
    return copies


def _crop_arrays(config: StoreConfig, content: LabeledCrops) -> dict[str, np.ndarray]:
    """What is known of each crop; where the cells of label maps lie follows from the grid."""
    arrays: dict[str, np.ndarray] = {}
    if config.grid is None:
        arrays = {"crop.box": content.records.box, "crop.flip": content.records.flip}
    arrays |= {f"crop.extra.{e.name}": content.records.extra[e.name] for e in config.extras}
    if content.label.ids is not None:
        arrays["label.index"] = content.label.ids
    if content.label.values is not None:
        arrays["label.value"] = content.label.values
    return arrays


def _columns(config: StoreConfig, crops: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns of a plain store, or of label maps."""
    columns = dict(crops)
    if "crop.flip" in crops:
        columns["crop.flip"] = np.packbits(crops["crop.flip"], axis=1, bitorder="little")
    if "label.value" in crops:
        columns["label.value"] = quantize(crops["label.value"], config.value_dtype)
    return columns


def _packed(
    config: StoreConfig, crops: dict[str, np.ndarray], labeled: np.ndarray
) -> dict[str, np.ndarray]:
    """The columns of a compact store; an unreadable image has an empty record."""
    records = [
        pack_record(config, {name: array[row] for name, array in crops.items()})
        if has_label
        else b""
        for row, has_label in enumerate(labeled.tolist())
    ]
    columns = {
        "record.offset": np.cumsum([0, *map(len, records)]),
        "record.bytes": np.frombuffer(b"".join(records), np.uint8),
    }
    if config.crops is not None:
        checksums = geometry_crc32(crops["crop.box"], crops["crop.flip"])
        columns["geometry.crc32"] = np.where(labeled, checksums, 0)
    return columns


def check_content(config: StoreConfig, keys: Sequence[bytes], content: LabeledCrops) -> None:
    """Refuse arrays that do not fit the config or each other.

    Raises:
        ValueError: says what is wrong.
    """
    _check_shapes(config, len(keys), content)
    _check_keys(keys)
    images, label = content.images, content.label
    labeled = images.status == LABELED
    _require(bool(np.isin(images.status, (LABELED, UNREADABLE)).all()), "status is neither 0 nor 1")
    box = content.records.box[labeled]
    height, width = (images.size[labeled, side, None].astype(np.int64) for side in (0, 1))
    inside = (
        (box >= 0).all()
        and (box[..., 2:] > 0).all()
        and (box[..., 0] + box[..., 2] <= height).all()
        and (box[..., 1] + box[..., 3] <= width).all()
    )
    _require(bool(inside), "a crop box leaves its image or is empty")
    if label.ids is not None:
        ids = label.ids[labeled]
        _require(
            bool(((ids >= 0) & (ids < config.num_classes)).all()), "a class id is out of range"
        )
    if label.values is not None:
        value = label.values[labeled]
        _require(bool(np.isfinite(value).all()), "a label value is NaN or infinite")
        probabilities = config.codec.stores == "probabilities"
        _require(not probabilities or bool((value >= 0).all()), "a probability is below 0")
    if config.compact:
        _check_packable(config, keys, content, labeled)
    if config.grid is not None:
        same = np.array_equal(box, grid_boxes(config.grid, images.size[labeled]))
        same = same and not content.records.flip[labeled].any()
        _require(same, "boxes are not the cells of the grid, unflipped")


def _check_packable(
    config: StoreConfig, keys: Sequence[bytes], content: LabeledCrops, labeled: np.ndarray
) -> None:
    """What the compact form takes for granted."""
    if config.levels is not None and content.label.values is not None:
        p = content.label.values[labeled]
        _require(bool((p[..., 1:] <= p[..., :-1]).all()), "probabilities are not in falling order")
        _require(bool((p[..., 0] > 0).all()), "a label has no probability above 0")
    if config.crops is not None:
        drawn = [keys[row] for row in np.flatnonzero(labeled).tolist()]
        numbers = np.broadcast_to(np.arange(config.num_crops), (len(drawn), config.num_crops))
        box, flip = draw_geometry(config.crops, drawn, content.images.size[labeled], numbers)
        same = np.array_equal(box, content.records.box[labeled])
        same = same and np.array_equal(flip, content.records.flip[labeled])
        _require(same, "boxes or flips are not those that the config draws; store them")


def _check_shapes(config: StoreConfig, n: int, content: LabeledCrops) -> None:
    m, images = config.num_crops, content.images
    expected = {
        "crc32": (images.crc32, (n,)),
        "num_bytes": (images.num_bytes, (n,)),
        "size": (images.size, (n, 2)),
        "status": (images.status, (n,)),
        "records.box": (content.records.box, (n, m, 4)),
        "records.flip": (content.records.flip, (n, m)),
    }
    _require(
        content.records.extra.keys() == {extra.name for extra in config.extras},
        f"records have the extras {sorted(content.records.extra)}, the config has others",
    )
    for extra in config.extras:
        expected[extra.name] = (content.records.extra[extra.name], (n, m, *extra.shape))
    for name, array, width in (
        ("ids", content.label.ids, config.num_ids),
        ("values", content.label.values, config.num_values),
    ):
        _require((array is None) == (width == 0), f"{name} is given, or missing, against the codec")
        if array is not None:
            expected[name] = (array, (n, m, width))
    for name, (array, shape) in expected.items():
        _require(array.shape == shape, f"{name} has the shape {array.shape}, not {shape}")


def _check_keys(keys: Sequence[bytes]) -> None:
    _require(
        all(0 < len(key) <= MAX_KEY_BYTES for key in keys),
        f"a key has no byte or more than {MAX_KEY_BYTES}",
    )
    ascending = all(a < b for a, b in pairwise(keys))
    _require(ascending, "keys are not in strictly ascending bytewise order")


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(f"this content cannot be a shard: {otherwise}")
