"""FunMatch: both networks see one tensor, mixed, and no class counts."""

import pytest
import torch

from fkd.crops.replay import InputSpec
from fkd.data.batches import Batch
from fkd.data.mixing import Mix
from fkd.errors import TeacherError
from fkd.methods.funmatch import FunMatch


def test_the_teacher_sees_the_students_tensor(method_inputs, teacher):
    size, how, _ = teacher.views[0]
    other = "bilinear" if how == "bicubic" else "bicubic"
    method = FunMatch(
        method_inputs(student=InputSpec(size, other), temperature=2.0, teacher=teacher)
    )
    assert method.formats == (InputSpec(size, other),)
    crops = torch.randint(0, 256, (4, 3, size, size), dtype=torch.uint8)
    partner = torch.tensor([3, 0, 1, 2])
    batch = Batch((crops,), torch.full((4,), -1), None).mixed(Mix(partner, 0.3, None, (size, size)))
    mixed = (0.3 * crops.float() + 0.7 * crops[partner].float()).round().byte()
    assert (batch.crops[0].int() - mixed.int()).abs().max() <= 1
    mixed = batch.crops[0]
    p = torch.softmax(teacher.logits([mixed]) / 2.0, 1)
    targets = method.targets(batch)
    torch.testing.assert_close(targets.dense(), p)
    logits = torch.randn(4, 7)
    divergence = (p * (p.log() - torch.log_softmax(logits / 2.0, 1))).sum(1).mean()
    torch.testing.assert_close(method.loss(logits, targets), 4.0 * divergence)


def test_a_teacher_of_another_size_is_refused(method_inputs, teacher):
    method = FunMatch(method_inputs(teacher=teacher))
    crops = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(TeacherError, match="takes uint8 crops of 3x48x48"):
        method.targets(Batch((crops,), torch.zeros(1), None))
