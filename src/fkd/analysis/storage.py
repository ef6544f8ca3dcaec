"""Bytes of labels by codec: Table 2 of the paper, for any data set.

Three countings side by side:

    formula    the paper's: every number of a label, its crop box and its flip takes 4 bytes
    official   the files of the official code, one torch.save of each image, as they are on disk
    ours       a store of this package, plain and compact, predicted or measured
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fkd.analysis.figures import COLORS, figure_style, new_figure
from fkd.checks import require_whole
from fkd.crops.sampling import CropConfig
from fkd.errors import ConfigError
from fkd.labeling.config import resolve_images_per_shard
from fkd.labels.codec_names import parse_codec
from fkd.labels.codecs import Codec
from fkd.store import LabelStore, form_members, predict_num_bytes
from fkd.store.geometry import crops_member
from fkd.viewing.summary import store_bytes

FORMULA_BYTES = 4
CROP_NUMBERS = 5
"""Numbers of a crop record: four of its box, one for its flip (D_DA in Table 2)."""

MAP_CELLS = 15 * 15
_BLOCK = 4096  # bytes in which file systems give space to files
_MEASURED_NUMBERS = 2**23  # of a file that is made for its size; takes some hundred MB for a moment


@dataclass(frozen=True, kw_only=True)
class StorageConfig:
    """What is to be stored.

    Attributes:
        num_images: N.
        num_classes: C.
        num_crops: M.
        kept: K of the codecs ms:K and mr:K, one row for each.
        key_length: mean length of an image's path below its root, bytes.
    """

    num_images: int
    num_classes: int
    num_crops: int
    kept: tuple[int, ...] = (5, 10)
    key_length: int = 30

    def __post_init__(self) -> None:
        for name in ("num_images", "num_classes", "num_crops", "key_length"):
            require_whole(1, name, getattr(self, name))
        for k in self.kept:
            require_whole(1, "kept", k)

    @property
    def codecs(self) -> list[Codec]:
        """Those of Table 2, as far as there are so many classes."""
        kept = [k for k in sorted(set(self.kept)) if k < self.num_classes]
        names = [
            "full",
            "hard",
            "smoothing",
            *(f"{kind}:{k}" for k in kept for kind in ("mr", "ms")),
        ]
        return [parse_codec(name) for name in names]


@dataclass(frozen=True)
class StorageRow:
    """Bytes of the labels of all images by one codec; None where there is no such form.

    Attributes:
        codec: as on the command line, or the name of a kind of label maps.
        formula: the paper's, 4 bytes a number.
        official: files of the official code.
        official_on_disk: the same in blocks of 4,096 bytes.
        plain: a plain store, predicted.
        compact: a compact store, predicted.
        measured: a store given by the user.
    """

    codec: str
    formula: int
    official: int | None = None
    official_on_disk: int | None = None
    plain: int | None = None
    compact: int | None = None
    measured: int | None = None


def compare_storage(config: StorageConfig, store: LabelStore | None = None) -> list[StorageRow]:
    """Table 2 for these numbers, label maps last.

    Args:
        config: what is to be stored.
        store: of crops, measured in a row of its codec.

    Raises:
        ConfigError: the store holds no labels of crops.
    """
    rows = [_row(config, codec) for codec in config.codecs]
    if store is not None:
        rows = _with_measured(config, rows, store)
    maps = config.num_images * MAP_CELLS * FORMULA_BYTES
    rows.append(StorageRow("label map, full", maps * config.num_classes))
    kept = [k for k in config.kept if k < config.num_classes]
    return rows + [StorageRow(f"label map, top {k}", maps * 2 * k) for k in kept]


def formula_bytes(config: StorageConfig, codec: Codec) -> int:
    """The paper's count for a codec: N M (numbers of a label + 5) times 4 bytes (Table 2).

    Differs: the table's formula leaves out M, which its row of dimensions and its results have.
    """
    numbers = codec.num_ids(config.num_classes) + codec.num_values(config.num_classes)
    return config.num_images * config.num_crops * (numbers + CROP_NUMBERS) * FORMULA_BYTES


def official_file_bytes(codec: Codec, num_classes: int, num_crops: int) -> int:
    """Bytes of an image's file as the official code writes it: boxes, flips and labels in float32,
    class ids as floats, by torch.save; measured on a file of random content.

    Of more than `_MEASURED_NUMBERS` numbers, only so many are made, and the file grows evenly.
    """
    numbers = CROP_NUMBERS + codec.num_ids(num_classes) + codec.num_values(num_classes)
    most = max(2, _MEASURED_NUMBERS // numbers)
    if num_crops <= most:
        return _measure_file(codec, num_classes, num_crops)
    half, whole = (_measure_file(codec, num_classes, count) for count in (most // 2, most))
    return whole + round((num_crops - most) * (whole - half) / (most - most // 2))


def _measure_file(codec: Codec, num_classes: int, num_crops: int) -> int:
    random = np.random.default_rng(0)
    shapes = {"full": (num_crops, num_classes), "hard": (num_crops,), "smoothing": (num_crops, 2)}
    shape = shapes.get(codec.name, (num_crops, 2, codec.num_ids(num_classes)))
    label = random.random(shape, np.float32)
    content = [
        random.random((num_crops, 4), np.float32),
        random.random(num_crops) < 0.5,
        label.astype(np.int64) if codec.name == "hard" else label,
    ]
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.tell()


@figure_style()
def draw_storage(rows: Sequence[StorageRow]) -> Any:
    """One group of bars a codec, on a logarithmic axis, in units of which the largest has some."""
    series: dict[str, list[int | None]] = {
        "the paper's formula": [row.formula for row in rows],
        "official files": [row.official for row in rows],
        "plain store": [row.plain for row in rows],
        "compact store": [row.compact for row in rows],
        "measured": [row.measured for row in rows],
    }
    series = {name: sizes for name, sizes in series.items() if any(sizes)}
    figure = new_figure(7.5, 1.2 + 0.13 * (len(series) + 1) * len(rows))
    axes = figure.subplots()
    height = 0.85 / len(series)
    one, unit = _unit(max(max(filter(None, sizes)) for sizes in series.values()))
    for i, (name, sizes) in enumerate(series.items()):
        shown = [(y, size / one) for y, size in enumerate(sizes) if size]
        places = [y + (i - (len(series) - 1) / 2) * height for y, _ in shown]
        widths = [size for _, size in shown]
        bars = axes.barh(places, widths, height=height * 0.9, color=COLORS[i], label=name)
        axes.bar_label(bars, [_short(size) for size in widths], padding=2, fontsize=6)
    axes.set_yticks(range(len(rows)), [row.codec for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.set_xlim(right=axes.get_xlim()[1] * 2)  # room for the numbers
    axes.set_xlabel(unit)
    figure.legend(loc="outside upper left", ncols=len(series), fontsize=8)
    return figure


def _unit(largest: int) -> tuple[float, str]:
    """The unit of a figure whose largest number of bytes this is, and its name."""
    units = ((1e9, "GB (10\u2079 bytes)"), (1e6, "MB (10\u2076 bytes)"))
    return next((each for each in units if largest >= each[0]), (1e3, "kB (1,000 bytes)"))


def _short(size: float) -> str:
    return f"{size:,.0f}" if size >= 100 else f"{size:.3g}"


def _row(config: StorageConfig, codec: Codec) -> StorageRow:
    per_file = official_file_bytes(codec, config.num_classes, config.num_crops)
    return StorageRow(
        codec.name,
        formula_bytes(config, codec),
        official=per_file * config.num_images,
        official_on_disk=-(-per_file // _BLOCK) * _BLOCK * config.num_images,
        plain=_predict(config, codec, "plain"),
        compact=_predict(config, codec, "compact"),
    )


def _predict(config: StorageConfig, codec: Codec, form: str) -> int | None:
    try:
        members = form_members(form, codec, config.num_classes)
    except ConfigError:
        return None  # such labels have no compact form
    identity = members | {
        "num_images": config.num_images,
        "num_crops": config.num_crops,
        "num_classes": config.num_classes,
        "class_names": [f"n{c:08}" for c in range(config.num_classes)],  # as long as a WordNet id
        "codec": codec.name,
        "extras": {},
        "images_per_shard": resolve_images_per_shard(None, config.num_images, config.num_crops),
        "keys_sha256": "0" * 64,
        "teachers": [{"name": "teacher", "weights_sha256": "0" * 64, "temperature": 1.0}],
        "crops": crops_member(CropConfig()),
    }
    return predict_num_bytes(identity, config.key_length)


def _with_measured(
    config: StorageConfig, rows: list[StorageRow], store: LabelStore
) -> list[StorageRow]:
    if store.grid is not None or not store.is_of_classes:
        raise ConfigError(f"store: {store.path} holds no labels of crops, which Table 2 counts")
    codec, measured = store.codec, store_bytes(store.path)
    if codec.name not in [row.codec for row in rows]:
        rows = [*rows, _row(config, codec)]
    return [replace(row, measured=measured) if row.codec == codec.name else row for row in rows]
