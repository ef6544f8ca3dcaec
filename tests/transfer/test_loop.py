"""The schedule of a detector, and what its steps count."""

from dataclasses import replace

import pytest
import torch
from torch.optim.lr_scheduler import LinearLR, MultiStepLR

from fkd.data.sources import ImagesConfig
from fkd.transfer.config import TransferConfig, fill_in
from fkd.transfer.loop import IMAGES, _count, scheduled_rate

CONFIG = TransferConfig(out="run", images=ImagesConfig(root="coco"), checkpoint="student")


@pytest.mark.parametrize("preset", ["1x", "tv-ref"])
def test_the_rate_is_that_of_torchvisions_reference(preset):
    """Its warm-up is counted in steps, its milestones in epochs; 40 steps are an epoch here."""
    steps, warmup = 40, 30
    config = fill_in(replace(CONFIG, preset=preset, warmup_steps=warmup), 16 * steps)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.02)
    rising = LinearLR(optimizer, start_factor=0.001, total_iters=warmup)
    for step in range(warmup):
        assert scheduled_rate(config, 0, step) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        rising.step()
    falling = MultiStepLR(optimizer, list(config.milestones), gamma=0.1)
    for epoch in range(config.epochs):
        step = max(epoch * steps, warmup)
        expected = optimizer.param_groups[0]["lr"]
        assert scheduled_rate(config, epoch, step) == pytest.approx(expected)
        optimizer.step()
        falling.step()
    assert scheduled_rate(config, config.epochs - 1, 10**6) == pytest.approx(0.0002)


def test_a_log_line_has_the_mean_of_every_part_of_the_loss():
    parts = {
        "loss_classifier": 1.0,
        "loss_box_reg": 2.0,
        "loss_objectness": 3.0,
        "loss_rpn_box_reg": 4.0,
    }
    losses = {name: torch.tensor(value) for name, value in parts.items()}
    first = _count(torch.tensor(10.0), losses, 3)
    second = _count(torch.tensor(14.0), {**losses, "loss_classifier": torch.tensor(5.0)}, 1)
    assert len(first) == IMAGES.num_counts
    line = IMAGES.describe((first + second).tolist(), 2.0)
    assert line == {
        "loss": 11.0,
        "loss_class": 2.0,
        "loss_box": 2.0,
        "loss_objectness": 3.0,
        "loss_proposal": 4.0,
        "images_per_second": 2.0,
    }
    with_masks = _count(torch.tensor(10.0), {**losses, "loss_mask": torch.tensor(7.0)}, 2)
    assert IMAGES.describe(with_masks.tolist(), 1.0)["loss_mask"] == 7.0
