import pickle

import torch

from fkd.labels.codecs import MarginalSmoothing
from fkd.labels.targets import SoftTargets


def some_targets():
    codec = MarginalSmoothing(2)
    probabilities = torch.tensor([[0.5, 0.3, 0.1, 0.1], [0.1, 0.2, 0.6, 0.1]])
    return codec.targets(codec.encode(probabilities), 4)


def test_dense_is_the_formula_of_the_module():
    targets = some_targets()
    expected = torch.tensor([[0.5, 0.3, 0.1, 0.1], [0.1, 0.2, 0.6, 0.1]])
    torch.testing.assert_close(targets.dense(), expected)


def test_classes_named_twice_add_up():
    targets = SoftTargets(
        torch.tensor([[1, 1]]), torch.tensor([[0.25, 0.5]]), torch.tensor([0.0625]), 4
    )
    assert targets.dense().tolist() == [[0.0625, 0.8125, 0.0625, 0.0625]]


def test_rows_devices_and_pickles_keep_the_label():
    targets = some_targets()
    assert torch.equal(targets[1:].dense(), targets.dense()[1:])
    assert torch.equal(targets[torch.tensor([1, 0])].dense(), targets.dense().flip(0))
    assert torch.equal(targets.to("cpu").dense(), targets.dense())
    assert torch.equal(pickle.loads(pickle.dumps(targets)).dense(), targets.dense())
    assert len(targets) == 2


def test_repr_tells_the_sizes():
    assert repr(some_targets()) == "SoftTargets(crops=2, classes=4, kept=2)"
    assert "kept=all" in repr(SoftTargets.full(torch.ones(3, 4) / 4))


def test_targets_are_pinned_tensor_by_tensor(monkeypatch):
    """Beside a GPU the DataLoader pins every batch; here only that each tensor is asked."""
    targets = SoftTargets.one_hot(torch.tensor([1, 2]), 5)
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    assert torch.equal(targets.pin_memory().weight, targets.weight)
    assert len(pinned) == sum(
        value is not None for value in (targets.index, targets.weight, targets.tail, targets.labels)
    )
