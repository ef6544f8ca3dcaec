"""Which images of a store are looked at."""

import numpy as np

from fkd.randomness import Purpose, stream_key, uniforms
from fkd.store import LabelStore


def sample_labeled_rows(
    store: LabelStore, count: int, seed: int, among: np.ndarray | None = None
) -> np.ndarray:
    """Up to `count` distinct random rows that have labels, ascending, int64 (n,).

    Args:
        store: the labels.
        count: how many.
        seed: of the choice.
        among: rows to choose from, ascending; by default all that are there.
    """
    among = store.present_rows if among is None else among
    draws = uniforms(stream_key(seed), Purpose.PROBE, np.arange(8 * count), 1)[:, 0]
    rows = among[np.unique(np.floor(draws * len(among)).astype(np.int64))] if len(among) else among
    if len(among) <= 8 * count:
        rows = among
    rows = rows[store.labeled(rows)]
    keep = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)
    chosen: np.ndarray = rows[keep]
    return chosen


def spread_crops(num_crops: int, count: int) -> np.ndarray:
    """Up to `count` crop numbers spread over all, int64."""
    return np.linspace(0, num_crops - 1, min(count, num_crops)).astype(np.int64)
