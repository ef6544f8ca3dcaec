"""Which images look the same: all pairs whose thumbnails correlate, none missed.

A thumbnail has 3 x 32 x 32 numbers; less their mean and divided by their length they are a unit
vector u, and the similarity of two images is u . v, the correlation of their thumbnails: changes of
size, brightness and contrast leave it as it is.

Comparing all pairs of long vectors would take hours for 100,000 images. But with p the part of u
that is constant on boxes of 8 x 8 pixels, 48 numbers, and r the length of the rest,

    u . v  <=  p_u . p_v + r_u r_v,

which is a product of vectors of 49 numbers. Pairs for which it is below the threshold cannot be
similar; the few others are compared in full. Besides, u . v >= t means that two numbers of u and v
in the same place differ by at most sqrt(2 - 2 t): images are sorted by one, and only neighbors in
that order are compared.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from fkd.crops.replay import resize

SIDE = 32
"""Of a thumbnail, pixels."""

_BOXES = 4  # in each direction
_BLOCK, _OTHERS = 1024, 16384  # images that are compared with so many others at a time
_PAIRS = 4096  # that are compared in full at a time
_MOST_FOUND = 1_000_000  # pairs; where all images look the same, there would be no end
_BLANK = 2.0  # gray levels of standard deviation below which there is nothing to compare
_SLACK = 1e-5  # of the bound, for the rounding of float32


@dataclass(frozen=True)
class SimilarPairs:
    """Pairs of images that look the same.

    Attributes:
        first: the one that comes first, int64 (n,).
        second: the other, int64 (n,).
        similarity: correlation of their thumbnails, float32 (n,), at most 1.
        num_found: pairs that were found, which may be more than those that were kept.
        complete: whether all pairs were looked for; not if a million were found before.
    """

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray
    num_found: int
    complete: bool = True


def no_pairs() -> SimilarPairs:
    """None at all, to add others to."""
    return SimilarPairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), 0)


def make_thumbnail(image: Tensor) -> np.ndarray:
    """A decoded image at 32 x 32 pixels, whatever its aspect, uint8 (3, 32, 32)."""
    thumbnail: np.ndarray = resize(image, (SIDE, SIDE), "bilinear").numpy()
    return thumbnail


def is_blank(thumbnails: np.ndarray) -> np.ndarray:
    """Whether images (n, 3, 32, 32) show next to nothing, bool (n,): such all look the same."""
    return np.array([t.std(axis=(1, 2)).max() < _BLANK for t in thumbnails], bool)


def similarity(thumbnails: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlation of pairs of thumbnails, float32 (len(first),), in [-1, 1]."""
    products = np.einsum("nd,nd->n", _unit(thumbnails[first]), _unit(thumbnails[second]))
    clipped: np.ndarray = np.clip(products, -1.0, 1.0)
    return clipped


def find_similar(
    thumbnails: np.ndarray,
    min_similarity: float,
    *,
    priority: Callable[[np.ndarray, np.ndarray], np.ndarray],
    most: int,
    progress: Callable[[int], None] = lambda num_images: None,
) -> SimilarPairs:
    """All pairs of thumbnails that are at least so similar.

    Args:
        thumbnails: uint8 (n, 3, 32, 32), none of them blank.
        min_similarity: the least correlation, in (0, 1].
        priority: (first, second) of pairs to numbers, of which the highest are kept where there
            are too many; among equals the most similar are.
        most: pairs to keep.
        progress: called with the number of images that have been compared with all others.
    """
    kept = no_pairs()
    for num_done, first, second in _candidates(thumbnails, min_similarity):
        for start in range(0, len(first), _PAIRS):
            a, b = first[start : start + _PAIRS], second[start : start + _PAIRS]
            similar = similarity(thumbnails, a, b)
            found = similar >= min_similarity
            kept = _merge(kept, a[found], b[found], similar[found])
        if kept.num_found > _MOST_FOUND:
            return replace(_best(kept, priority, most), complete=False)
        if len(kept.first) > 2 * most:
            kept = _best(kept, priority, most)
        progress(num_done)
    return _best(kept, priority, most)


def _candidates(
    thumbnails: np.ndarray, min_similarity: float
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Pairs that may be so similar, first < second, each once; before them, how many images have
    with these been compared with all others."""
    coarse = _bounding_vectors(thumbnails)
    axis = int(coarse[:, :-1].var(axis=0).argmax()) if len(coarse) else 0
    order = np.argsort(coarse[:, axis], kind="stable")
    coarse = coarse[order]
    reach = np.sqrt(max(0.0, 2.0 - 2.0 * min_similarity)) + _SLACK
    stops = np.searchsorted(coarse[:, axis], coarse[:, axis] + reach, side="right")
    for start in range(0, len(coarse), _BLOCK):
        block = slice(start, min(start + _BLOCK, len(coarse)))
        stop = int(stops[block].max())
        for left in range(start, stop, _OTHERS):
            bound = coarse[block] @ coarse[left : min(left + _OTHERS, stop)].T
            rows, others = np.nonzero(bound >= min_similarity - _SLACK)
            a, b = start + rows, left + others
            once = a < b
            a, b = order[a[once]], order[b[once]]
            num_done = block.stop - start if left + _OTHERS >= stop else 0
            yield num_done, np.minimum(a, b), np.maximum(a, b)


def _bounding_vectors(thumbnails: np.ndarray) -> np.ndarray:
    """The vectors (p, r) of the top of this file, float32 (n, 49)."""
    width = SIDE // _BOXES
    vectors = np.empty((len(thumbnails), 3 * _BOXES**2 + 1), np.float32)
    for start in range(0, len(thumbnails), _BLOCK):
        part = slice(start, start + _BLOCK)
        unit = _unit(thumbnails[part])
        boxes = unit.reshape(-1, 3, _BOXES, width, _BOXES, width).mean(axis=(3, 5)) * width
        vectors[part, :-1] = boxes.reshape(len(unit), -1)
        rest = 1.0 - np.square(vectors[part, :-1]).sum(axis=1)
        vectors[part, -1] = np.sqrt(np.maximum(rest, 0.0))
    return vectors


def _unit(thumbnails: np.ndarray) -> np.ndarray:
    """Less their mean, divided by their length, float32 (n, 3072)."""
    rows = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _merge(
    kept: SimilarPairs, first: np.ndarray, second: np.ndarray, similar: np.ndarray
) -> SimilarPairs:
    return SimilarPairs(
        np.concatenate([kept.first, first]),
        np.concatenate([kept.second, second]),
        np.concatenate([kept.similarity, similar]),
        kept.num_found + len(first),
    )


def _best(
    pairs: SimilarPairs, priority: Callable[[np.ndarray, np.ndarray], np.ndarray], most: int
) -> SimilarPairs:
    """The pairs of the highest priority, the most similar ones first; equals in their order."""
    rank = priority(pairs.first, pairs.second)
    order = np.lexsort((pairs.second, pairs.first, -pairs.similarity, -rank))[:most]
    return SimilarPairs(
        pairs.first[order], pairs.second[order], pairs.similarity[order], pairs.num_found
    )
