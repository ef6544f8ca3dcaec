"""Which images of a store are looked at."""

import numpy as np

from fkd.randomness import Purpose, stream_key, uniforms
from fkd.store import LabelStore


def sample_labeled_rows(store: LabelStore, count: int, seed: int) -> np.ndarray:
    """Up to `count` distinct random rows that have labels, ascending, int64 (n,)."""
    draws = uniforms(stream_key(seed), Purpose.PROBE, np.arange(8 * count), 1)[:, 0]
    rows = np.unique(np.floor(draws * store.num_images).astype(np.int64))
    if store.num_images <= 8 * count:
        rows = np.arange(store.num_images)
    rows = rows[store.labeled(rows)]
    keep = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)
    chosen: np.ndarray = rows[keep]
    return chosen


def spread_crops(num_crops: int, count: int) -> np.ndarray:
    """Up to `count` crop numbers spread over all, int64."""
    return np.linspace(0, num_crops - 1, min(count, num_crops)).astype(np.int64)
