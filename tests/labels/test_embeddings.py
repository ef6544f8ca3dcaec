import pickle

import numpy as np
import pytest
import torch

from fkd.labels.embeddings import Embeddings
from fkd.labels.encoded import Encoded
from fkd.labels.targets import SoftTargets

ROWS = np.arange(12, dtype=np.float32).reshape(2, 2, 3)


def some_embeddings() -> Embeddings:
    return Embeddings(Embeddings.of(Encoded(None, ROWS)).values, torch.tensor([0, 0, 1, -1]))


def test_stored_rows_are_taken_as_they_are():
    assert torch.equal(some_embeddings().values, torch.arange(12.0).reshape(4, 3))
    assert repr(some_embeddings()) == "Embeddings(crops=4, dimensions=3)"


def test_rows_devices_and_pickles_keep_the_embeddings():
    embeddings = some_embeddings()
    assert torch.equal(embeddings[1:].values, embeddings.values[1:])
    assert embeddings[1:].labels.tolist() == [0, 1, -1]
    assert torch.equal(embeddings.to("cpu").values, embeddings.values)
    assert torch.equal(pickle.loads(pickle.dumps(embeddings)).values, embeddings.values)
    assert len(embeddings) == 4


@pytest.mark.parametrize(
    "targets", [some_embeddings(), SoftTargets.full(torch.ones(2, 3) / 3)], ids=["rows", "labels"]
)
def test_targets_go_into_page_locked_memory(targets, monkeypatch):
    """As they do beside a GPU; without one torch refuses."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.clone())
    assert len(targets.pin_memory()) == len(targets)
