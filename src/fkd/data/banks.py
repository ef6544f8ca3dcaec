"""Embeddings drawn from a store, that others are compared with: a bank."""

import numpy as np
import torch
from torch import Tensor

from fkd.randomness import Purpose, permutations, stream_key
from fkd.store import LabelStore

_BANK = b"bank"  # names the random stream that draws them


def draw_bank(store: LabelStore, rows: np.ndarray, size: int, seed: int) -> Tensor:
    """Embeddings float32 (size, D) of crops of a store, all different; fewer where it has fewer.

    A pure function of its arguments: every process, and every start of a run, has the same ones.
    No image is used twice before all others were used once.

    Args:
        store: of embeddings.
        rows: of the images whose crops are drawn, int64 (n,).
        size: how many.
        seed: of the run.

    Raises:
        DamagedStore: a row differs from its checksum.
    """
    positions = np.arange(min(size, len(rows) * store.num_crops))
    stream = stream_key(seed, _BANK)
    order = permutations(stream, Purpose.BANK, 0, len(rows))
    images = rows[order[positions % len(rows)]]
    # The n-th use of an image takes the n-th crop of a random order of its own.
    crops = permutations(stream, Purpose.BANK, 1 + images, store.num_crops)
    chosen = crops[positions, positions // len(rows)]
    values = store.read(images, chosen[:, None]).label.values
    assert values is not None  # embeddings are nothing but values
    return torch.from_numpy(values.reshape(len(positions), -1))
