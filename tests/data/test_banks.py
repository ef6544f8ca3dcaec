"""Banks of embeddings: drawn by an address, without repeats, from the images to train on."""

import numpy as np
import torch

from fkd.data.banks import draw_bank

VALUES = {"codec": "logits", "value_dtype": "f32"}


def values_of(store, rows):
    return torch.as_tensor(store.read(rows).label.values)


def test_a_bank_is_rows_of_the_store_and_all_different(make_store, image_source, tmp_path):
    store = make_store(tmp_path / "s", image_source, **VALUES)
    rows = np.array([1, 4, 7, 11])
    bank = draw_bank(store, rows, 10, seed=3)
    known = values_of(store, rows).flatten(0, 1)
    found = (bank[:, None] == known[None]).all(2)
    assert (found.sum(1) == 1).all()
    assert (found.sum(0) <= 1).all()
    per_image = found.unflatten(1, (4, store.num_crops)).sum((0, 2))
    assert per_image.tolist() in ([3, 3, 2, 2], *_orders([3, 3, 2, 2]))


def _orders(counts):
    return [[counts[i] for i in order] for order in np.ndindex(4, 4, 4, 4) if len(set(order)) == 4]


def test_a_bank_depends_on_the_seed_alone(make_store, image_source, tmp_path):
    store = make_store(tmp_path / "s", image_source, **VALUES)
    rows = np.arange(len(store))
    first = draw_bank(store, rows, 20, seed=0)
    assert torch.equal(draw_bank(store, rows, 20, seed=0), first)
    assert not torch.equal(draw_bank(store, rows, 20, seed=1), first)
    assert torch.equal(draw_bank(store, rows, 7, seed=0), first[:7])


def test_a_bank_has_at_most_all_crops(make_store, image_source, tmp_path):
    store = make_store(tmp_path / "s", image_source, **VALUES)
    bank = draw_bank(store, np.array([2]), 4096, seed=0)
    assert len(bank) == store.num_crops
    assert len(torch.unique(bank, dim=0)) == store.num_crops
