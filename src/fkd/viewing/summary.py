"""What a label store holds, in numbers and a few sample labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fkd.errors import escape_controls
from fkd.labels.arrays import decode_array, entropies
from fkd.labels.sigmoid_codecs import is_multi_label
from fkd.models.classes import display_names
from fkd.store import LabelStore
from fkd.store.canonical import printable
from fkd.viewing.embeddings import (
    EmbeddingSample,
    EmbeddingStatistics,
    Neighbors,
    describe,
    nearest_crops,
    sample_embeddings,
    statistics_of,
)
from fkd.viewing.samples import sample_labeled_rows

_IMAGES, _CROPS = 64, 8  # of which statistics are made; of classes all crops count
_SHOWN_CLASSES, _SHOWN_NEIGHBORS = 5, 2


@dataclass(frozen=True)
class TopClasses:
    """The most probable classes of one crop, highest first: readable names and probabilities."""

    names: list[str]
    probabilities: list[float]

    def __str__(self) -> str:
        pairs = zip(self.names, self.probabilities, strict=True)
        return ", ".join(f"{name} {p:.2f}" for name, p in pairs)


@dataclass(frozen=True)
class StoreSummary:
    """A label store in numbers.

    Attributes:
        facts: what the store is, name to value, in reading order.
        settings: the store's configuration as dotted names to values.
        num_bytes: size of all its files.
        bytes_per_crop: `num_bytes` over all stored crops.
        mean_confidence: mean probability of the top class over the sampled crops; None of features.
        mean_entropy: mean entropy of the sampled labels, nats; None of features.
        embeddings: of a sample of features; None of classes.
        samples: (image, crop number, top classes, or of features the nearest crops of other images)
            of a few random crops.
    """

    facts: dict[str, str]
    settings: dict[str, str]
    num_bytes: int
    bytes_per_crop: float
    mean_confidence: float | None
    mean_entropy: float | None
    embeddings: EmbeddingStatistics | None
    samples: list[tuple[str, int, TopClasses | Neighbors]]

    @property
    def statistics(self) -> dict[str, str]:
        """What is known of the sampled labels, name to value, in reading order."""
        if self.embeddings is not None:
            return describe(self.embeddings)
        return {
            "mean top probability": f"{self.mean_confidence:.3f}",
            "mean entropy": f"{self.mean_entropy:.3f} nats",
        }


def summarize(store: LabelStore, *, num_samples: int = 8, seed: int = 0) -> StoreSummary:
    """Numbers and `num_samples` sample labels of a store; statistics over up to 64 images."""
    num_bytes = store_bytes(store.path)
    rows = sample_labeled_rows(store, _IMAGES, seed)
    embeddings = confidence = entropy = None
    if store.is_of_classes:
        confidence, entropy = _statistics(store, rows)
        sample = None
    else:
        sample = sample_embeddings(store, _IMAGES, _CROPS, seed)
        embeddings = statistics_of(sample)
    samples = [
        (printable(store.keys([row])[0]), crop, _sample_label(store, sample, int(row), crop))
        for row, crop in zip(rows, range(num_samples), strict=False)
        for crop in [crop % store.num_crops]
    ]
    return StoreSummary(
        facts=_facts(store, num_bytes),
        settings=dict(_dotted(_settings_of(store.config))),
        num_bytes=num_bytes,
        bytes_per_crop=num_bytes / max(1, store.num_images * store.num_crops),
        mean_confidence=confidence,
        mean_entropy=entropy,
        embeddings=embeddings,
        samples=samples,
    )


def top_classes(store: LabelStore, row: int, k: int) -> list[TopClasses]:
    """The k most probable classes of every crop of one image, decoded."""
    probabilities = _probabilities(store, store.keys([row])[0])
    k = min(k, probabilities.shape[1])
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    names = display_names(store.class_names)
    return [
        TopClasses([names[c] for c in classes], p[classes].tolist())
        for classes, p in zip(order, probabilities, strict=True)
    ]


def _sample_label(
    store: LabelStore, sample: EmbeddingSample | None, row: int, crop: int
) -> TopClasses | Neighbors:
    """What the teacher says of one crop; of features by a sample of others."""
    if sample is None:
        return top_classes(store, row, _SHOWN_CLASSES)[crop]
    values = store.read([row], [[crop]]).label.values
    assert values is not None
    return nearest_crops(sample, values[0], row, _SHOWN_NEIGHBORS)[0]


def store_bytes(path: Path) -> int:
    """Size of all files of a store, bytes."""
    return sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())


def _facts(store: LabelStore, num_bytes: int) -> dict[str, str]:
    crops = store.num_images * store.num_crops
    unreadable = store.num_images - int(store.labeled(store.present_rows).sum())
    partial = (
        {"shards": f"{len(store.committed)} of {store.num_shards}"} if store.is_partial else {}
    )
    of_all = f" of {store.num_images_in_all:,}" if store.is_partial else ""
    facts = {
        "images": f"{store.num_images:,}{of_all}",
        **partial,
        **_crops(store),
        **_columns(store),
        "codec": _codec(store),
        **_licenses(store),
        "bytes": f"{store.num_bytes:,} of labels ({store.num_bytes / max(1, crops):.1f} per crop), "
        f"{num_bytes:,} in all files",
        "root hash": store.root_hash or "none: the store is not finished",
    }
    return facts | ({"unreadable images": f"{unreadable:,}"} if unreadable else {})


def _licenses(store: LabelStore) -> dict[str, str]:
    """Those of the weights of the teachers, as far as they are known."""
    known = [teacher.license for teacher in store.provenance.teachers if teacher.license]
    return {"teacher's license": escape_controls(", ".join(dict.fromkeys(known)))} if known else {}


def _columns(store: LabelStore) -> dict[str, str]:
    """What the columns of a label are."""
    if store.is_of_classes:
        return {"classes": f"{store.num_classes:,}"}
    projection = store.provenance.projection
    origin = "" if projection is None else f", projected from {projection.num_features:,}"
    return {"dimensions": f"{store.num_classes:,} of an embedding{origin}, no classes"}


def _codec(store: LabelStore) -> str:
    dtype = store.value_dtype
    return store.codec.name if dtype is None else f"{store.codec.name}, values as {dtype}"


def _crops(store: LabelStore) -> dict[str, str]:
    if store.grid is not None:
        return {"label maps": f"{store.grid[0]} x {store.grid[1]} cells, each as a crop below"}
    return {"crops per image": f"{store.num_crops:,}"}


def _statistics(store: LabelStore, rows: np.ndarray) -> tuple[float, float]:
    """Mean top probability and mean entropy (nats) over the crops of the rows."""
    if len(rows) == 0:
        return float("nan"), float("nan")
    labels = [_probabilities(store, key) for key in store.keys(rows)]
    confidence = np.mean([label.max(1).mean() for label in labels])
    per_class = is_multi_label(store.codec)  # each has an entropy of its own
    entropy = np.mean(
        [(entropies(q) + (entropies(1.0 - q) if per_class else 0.0)).mean() for q in labels]
    )
    return float(confidence), float(entropy)


def _probabilities(store: LabelStore, key: bytes) -> np.ndarray:
    """The decoded labels of all crops of an image, float64 (M, C)."""
    image = store[key]
    return decode_array(image.codec, image.label, image.num_classes)


def _settings_of(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without its long lists."""
    return {name: value for name, value in config.items() if name != "class_names"}


def _dotted(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested objects as (dotted name, text) pairs."""
    if isinstance(value, dict):
        return [
            pair for k in sorted(value) for pair in _dotted(value[k], f"{name}.{k}" if name else k)
        ]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [pair for i, v in enumerate(value) for pair in _dotted(v, f"{name}.{i}")]
    return [(name, str(value))]
