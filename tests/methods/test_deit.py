"""DeiT distillation: its losses written naively, with and without the distillation token."""

import pytest
import timm
import torch
import torch.nn.functional as F

from fkd.data.batches import Batch
from fkd.data.mixing import Mix
from fkd.errors import ConfigError
from fkd.methods import DeitConfig
from fkd.methods.deit import Deit


@pytest.fixture
def batch() -> Batch:
    crops = tuple(torch.randint(0, 256, (4, 3, s, s), dtype=torch.uint8) for s in (32, 48))
    return Batch(crops, torch.tensor([0, 1, 6, 3]), None)


@pytest.fixture
def build(method_inputs, teacher):
    def build_deit(temperature=1.0, label_smoothing=0.0, **options) -> Deit:
        return Deit(
            method_inputs(
                temperature=temperature,
                label_smoothing=label_smoothing,
                teacher=teacher,
                options=DeitConfig(**options),
            )
        )

    return build_deit


def test_hard_labels_are_the_teachers_choice_on_the_mixed_crops(build, teacher, batch):
    method = build(label_smoothing=0.1)
    mixed = batch.mixed(Mix(torch.tensor([1, 2, 3, 0]), 0.6, None, (32, 32)))
    of_class, of_teacher = torch.randn(4, 7), torch.randn(4, 7)
    loss = method.loss((of_class, of_teacher), method.targets(mixed))
    truth = 0.9 * F.one_hot(batch.labels, 7) + 0.1 / 7
    truth = 0.6 * truth + 0.4 * truth[[1, 2, 3, 0]]
    said = teacher.logits([mixed.crops[1]]).argmax(1)
    expected = 0.5 * F.cross_entropy(of_class, truth) + 0.5 * F.cross_entropy(of_teacher, said)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("divide", [False, True])
def test_soft_labels_are_kl_with_temperature(build, teacher, batch, divide):
    method = build(kind="soft", alpha=0.1, divide_by_classes=divide, temperature=3.0)
    of_class, of_teacher = torch.randn(4, 7), torch.randn(4, 7)
    loss = method.loss((of_class, of_teacher), method.targets(batch))
    p = torch.log_softmax(teacher.logits([batch.crops[1]]) / 3.0, 1)
    q = torch.log_softmax(of_teacher / 3.0, 1)
    soft = (
        F.kl_div(q, p, reduction="sum", log_target=True)
        * 9.0
        / (of_teacher.numel() if divide else 4)
    )
    torch.testing.assert_close(loss, 0.9 * F.cross_entropy(of_class, batch.labels) + 0.1 * soft)


def test_a_network_without_the_token_learns_both_with_its_head(build, batch):
    method, logits = build(), torch.randn(4, 7)
    targets = method.targets(batch)
    torch.testing.assert_close(method.loss(logits, targets), method.loss((logits, logits), targets))


def test_both_tokens_have_logits_in_training_and_are_averaged_in_evaluation(build):
    student = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=7, img_size=32)
    build().prepare_student(student)
    pixels = torch.randn(2, 3, 32, 32)
    answers = student.train()(pixels)
    assert [tuple(answer.shape) for answer in answers] == [(2, 7), (2, 7)]
    assert student.eval()(pixels).shape == (2, 7)
    full = timm.create_model("deit_tiny_distilled_patch16_224")
    assert sum(p.numel() for p in full.parameters()) == 5_910_800


def test_settings_are_checked():
    with pytest.raises(ConfigError, match=r"deit\.kind: 'firm' is none of hard, soft"):
        DeitConfig(kind="firm")
    with pytest.raises(ConfigError, match=r"deit.alpha must lie in \[0, 1\], got 2"):
        DeitConfig(alpha=2)
