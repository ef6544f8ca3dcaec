"""The slowly moving copy of a student, and its queue of keys."""

import timm
import torch
from torch import nn

from fkd.methods.momentum import MomentumQueue
from fkd.models.students import attach_head

DIM = 12


def student_of(width=DIM) -> nn.Module:
    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=0, img_size=32)
    return attach_head(network, "mlp", width, input_size=32, name="test_vit")


def test_the_copy_follows_slowly_and_the_queue_turns_over():
    student = student_of()
    memory = MomentumQueue(student, DIM, length=10, momentum=0.75)
    before = [p.clone() for p in memory.encoder.parameters()]
    old = memory.queue.clone()
    torch.testing.assert_close(old.norm(dim=1), torch.ones(10))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    first, second = (memory(torch.randn(6, 3, 32, 32)) for _ in range(2))
    filler = memory(torch.randn(2, 3, 32, 32))
    memory.step(student, [True, True, False])
    for then, now in zip(before, memory.encoder.parameters(), strict=True):
        torch.testing.assert_close(now.data, then + 0.25)
    keys = torch.cat([first, second])
    assert int(memory.oldest) == 0  # of 12 keys the last 10 are kept
    assert torch.equal(memory.queue, keys[2:])
    assert not (memory.queue[:, None] == filler[None]).all(2).any()
    third = memory(torch.randn(3, 3, 32, 32))
    memory.step(student, [True])
    assert torch.equal(memory.queue[:3], third)
    assert torch.equal(memory.queue[3:], keys[5:])
    assert int(memory.oldest) == 3


def test_keys_do_not_tell_by_batch_norm_which_crops_belong_together():
    """Two halves, drawn anew: the statistics of a crop's key are those of other crops."""
    norm = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3 * 4, affine=False))
    memory = MomentumQueue(norm, 12, length=10, momentum=0.9)
    images = torch.randn(8, 3, 2, 2)
    torch.manual_seed(1)
    first = memory(images)
    assert not torch.allclose(first, memory(images))
    torch.manual_seed(1)
    assert torch.equal(first, memory(images))
