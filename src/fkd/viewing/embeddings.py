"""A store of embeddings: their sizes, their directions, and which crops lie near each other.

Columns of embeddings are no classes: there is no most probable one to show. All numbers are of a
sample of the store that fits into memory. Cosines of a row of zeros count as 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fkd.store import LabelStore
from fkd.store.canonical import printable
from fkd.viewing.samples import sample_labeled_rows, spread_crops

_MAX_NUMBERS = 1 << 23  # of a sample


@dataclass(frozen=True)
class EmbeddingSample:
    """Embeddings of m crops of each of n images.

    Attributes:
        names: of the images.
        rows: of the images in the store, int64 (n,).
        crops: their numbers, of every image the same, int64 (m,).
        norms: lengths of the embeddings, float64 (n, m).
        directions: the embeddings divided by their lengths, float32 (n, m, D).
    """

    names: list[str]
    rows: np.ndarray
    crops: np.ndarray
    norms: np.ndarray
    directions: np.ndarray


@dataclass(frozen=True)
class EmbeddingStatistics:
    """A sample of embeddings in numbers; None where there are too few to tell.

    Attributes:
        num_images: images in the sample.
        num_crops: crops of each.
        mean_norm: mean length.
        std_norm: standard deviation of the lengths.
        cosine_within: mean cosine of two crops of one image.
        cosine_across: mean cosine of two crops of different images.
    """

    num_images: int
    num_crops: int
    mean_norm: float | None
    std_norm: float | None
    cosine_within: float | None
    cosine_across: float | None


@dataclass(frozen=True)
class Neighbor:
    """A crop of another image: its name, the number of the crop, and the cosine to it.

    Attributes:
        image: its name.
        row: of the image in the store.
        crop: number of the crop.
        cosine: of the two embeddings.
    """

    image: str
    row: int
    crop: int
    cosine: float

    def __str__(self) -> str:
        return f"{self.image} #{self.crop} {self.cosine:.2f}"


@dataclass(frozen=True)
class Neighbors:
    """The crops of other images whose embeddings are nearest to that of a crop, nearest first."""

    nearest: list[Neighbor]

    def __str__(self) -> str:
        return ", ".join(map(str, self.nearest))


def sample_embeddings(
    store: LabelStore, num_images: int, num_crops: int, seed: int, among: np.ndarray | None = None
) -> EmbeddingSample:
    """Embeddings of up to so many images, and crops of each, of a store of features.

    Args:
        store: of features.
        num_images: at most so many.
        num_crops: of each.
        seed: of the choice of images.
        among: rows to choose from, ascending; by default all that are there.
    """
    crops = spread_crops(store.num_crops, num_crops)
    fitting = max(2, _MAX_NUMBERS // (len(crops) * store.num_classes))
    rows = sample_labeled_rows(store, min(num_images, fitting), seed, among)
    values = np.zeros((len(rows), len(crops), store.num_classes), np.float32)
    for i, row in enumerate(rows.tolist()):  # all crops of an image are read, so one by one
        values[i] = store.read([row], crops[None]).label.values
    norms = _lengths(values)
    names = [printable(key) for key in store.keys(rows)]
    return EmbeddingSample(names, rows, crops, norms, _directions(values, norms))


def statistics_of(sample: EmbeddingSample) -> EmbeddingStatistics:
    """Lengths and mean cosines of a sample, over all its pairs.

    The cosines of all pairs of unit vectors follow from sums of these: |sum u|^2 is the sum of
    <u, v> over all ordered pairs, those of a vector with itself included.
    """
    n, m = sample.norms.shape
    directions = sample.directions.astype(np.float64)
    of_images = directions.sum(axis=1)
    alone = float((directions**2).sum())
    within = float((of_images**2).sum())
    everything = float((of_images.sum(axis=0) ** 2).sum())
    return EmbeddingStatistics(
        num_images=n,
        num_crops=m,
        mean_norm=float(sample.norms.mean()) if n else None,
        std_norm=float(sample.norms.std()) if n else None,
        cosine_within=(within - alone) / (n * m * (m - 1)) if n and m > 1 else None,
        cosine_across=(everything - within) / (n * (n - 1) * m * m) if n > 1 else None,
    )


def nearest_crops(
    sample: EmbeddingSample, embeddings: np.ndarray, row: int, k: int
) -> list[Neighbors]:
    """For each embedding (q, D) of an image, the k nearest crops of other images.

    Args:
        sample: where to look.
        embeddings: of crops of one image.
        row: of that image, which is left out.
        k: how many; fewer where the sample has fewer.
    """
    others = np.flatnonzero(sample.rows != row)
    flat = sample.directions[others].reshape(-1, embeddings.shape[-1])
    cosines = _directions(embeddings, _lengths(embeddings)) @ flat.T
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return [
        Neighbors([_neighbor(sample, others, int(i), float(cosines[q, i])) for i in nearest])
        for q, nearest in enumerate(order)
    ]


def describe(statistics: EmbeddingStatistics) -> dict[str, str]:
    """The statistics as text, by what they are called."""

    def text(number: float | None, more: str = "") -> str:
        return "too few to tell" if number is None else f"{number:.3f}{more}"

    return {
        "norm of an embedding": text(
            statistics.mean_norm, f", standard deviation {text(statistics.std_norm)}"
        ),
        "mean cosine, crops of one image": text(statistics.cosine_within),
        "mean cosine, crops of different images": text(statistics.cosine_across),
        "sample": f"{statistics.num_images:,} images, {statistics.num_crops:,} crops of each",
    }


def rows_of(neighbors: Sequence[Neighbors]) -> dict[int, list[int]]:
    """The crops among these neighbors, by the row of their image."""
    crops: dict[int, set[int]] = {}
    for neighbor in (neighbor for each in neighbors for neighbor in each.nearest):
        crops.setdefault(neighbor.row, set()).add(neighbor.crop)
    return {row: sorted(numbers) for row, numbers in sorted(crops.items())}


def _neighbor(sample: EmbeddingSample, others: np.ndarray, place: int, cosine: float) -> Neighbor:
    """The crop at a place among all crops of the other images."""
    i, crop = divmod(place, len(sample.crops))
    image = int(others[i])
    return Neighbor(
        image=sample.names[image],
        row=int(sample.rows[image]),
        crop=int(sample.crops[crop]),
        cosine=cosine,
    )


def _lengths(values: np.ndarray) -> np.ndarray:
    """Lengths of the last axis, float64: no overflow, whatever float32 holds."""
    lengths: np.ndarray = np.sqrt((values.astype(np.float64) ** 2).sum(axis=-1))
    return lengths


def _directions(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    whole = np.where(lengths == 0, 1.0, lengths)[..., None]
    directions: np.ndarray = (values / whole).astype(np.float32)
    return directions
