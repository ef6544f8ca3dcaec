"""MixUp and CutMix: labels follow pixels, and nothing is made dense."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fkd.data.mixing import Mix, MixingConfig, mix_crops, mix_labels, sample_mix
from fkd.errors import ConfigError
from fkd.labels.codecs import MarginalSmoothing
from fkd.labels.losses import soft_cross_entropy

BOTH = MixingConfig(mixup_alpha=0.8, cutmix_alpha=1.0)


def make_targets(num_crops=6, num_classes=7):
    logits = torch.randn(num_crops, num_classes, generator=torch.Generator().manual_seed(0))
    codec = MarginalSmoothing(3)
    return codec.targets(codec.encode(torch.softmax(3 * logits, 1)), num_classes)


def test_by_default_nothing_is_mixed():
    assert sample_mix(MixingConfig(), 0, 0, 8, (4, 4)) is None
    assert sample_mix(MixingConfig(mixup_alpha=1.0, prob=0.0), 0, 0, 8, (4, 4)) is None


@given(step=st.integers(0, 10_000), height=st.integers(1, 40), width=st.integers(1, 40))
def test_the_share_of_cutmix_is_the_share_of_its_pixels(step, height, width):
    mix = sample_mix(MixingConfig(cutmix_alpha=1.0), 0, step, 2, (height, width))
    mix = replace(mix, partner=torch.tensor([1, 0]))
    crops = torch.stack([torch.zeros(3, height, width), torch.ones(3, height, width)]).byte()
    mixed, targets = mix_crops(mix, crops), mix_labels(mix, make_targets(2))
    assert mixed.dtype == torch.uint8
    own = (mixed[0] == 0).double().mean()
    assert own.item() == pytest.approx(mix.share, abs=1e-12)
    assert targets.dense().sum(1).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


def test_mixup_blends_pixels_and_labels_with_one_share():
    mix = sample_mix(MixingConfig(mixup_alpha=0.8), 0, 5, 6, (4, 4))
    crops = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8)
    images, targets = crops.float(), make_targets()
    mixed, mixed_targets = mix_crops(mix, crops), mix_labels(mix, targets)
    q, partner, share = targets.dense(), mix.partner, mix.share
    assert mix.box is None
    blended = share * images + (1 - share) * images[partner]
    torch.testing.assert_close(mixed.float(), blended, atol=0.5001, rtol=0)
    torch.testing.assert_close(mixed_targets.dense(), share * q + (1 - share) * q[partner])


def test_the_loss_of_a_mixture_is_the_mixture_of_the_losses():
    """Cross-entropy is linear in the label, which is why mixing needs no dense target."""
    targets, logits = make_targets(), torch.randn(6, 7, dtype=torch.float64)
    for step in range(20):
        mix = sample_mix(BOTH, 1, step, 6, (8, 8))
        mixed = mix_labels(mix, targets)
        own = soft_cross_entropy(logits, targets)
        other = soft_cross_entropy(logits, targets[mix.partner])
        share = torch.tensor(mix.share, dtype=torch.float32).double()
        torch.testing.assert_close(
            soft_cross_entropy(logits, mixed), share * own + (1 - share) * other, atol=1e-6, rtol=0
        )
        assert mixed.index.shape == (6, 6)


def test_a_teacher_with_larger_crops_sees_the_same_box():
    mix = Mix(torch.tensor([1, 0]), 0.75, (4, 8, 8, 8), (16, 16))
    small, large = (
        torch.stack([torch.zeros(3, s, s), torch.ones(3, s, s)]).byte() for s in (16, 32)
    )
    pasted_small, pasted_large = (mix_crops(mix, crops)[0, 0] for crops in (small, large))
    assert pasted_small[4:12, 8:16].all()
    assert pasted_small.sum() == 64
    assert torch.equal(pasted_large, pasted_small.repeat_interleave(2, 0).repeat_interleave(2, 1))


def test_draws_are_a_function_of_seed_and_step():
    first, again = (sample_mix(BOTH, 0, 3, 8, (16, 16)) for _ in range(2))
    assert first.share == again.share
    assert torch.equal(first.partner, again.partner)
    assert sample_mix(BOTH, 0, 4, 8, (16, 16)).share != first.share
    assert sample_mix(BOTH, 1, 3, 8, (16, 16)).share != first.share


def test_processes_with_chunks_of_different_size_draw_the_same_share():
    assert sample_mix(BOTH, 0, 3, 8, (16, 16)).share == sample_mix(BOTH, 0, 3, 5, (16, 16)).share


def test_shares_of_the_kinds_are_as_configured():
    config = MixingConfig(mixup_alpha=0.8, cutmix_alpha=1.0, prob=0.5, mixup_share=0.25)
    mixes = [sample_mix(config, 0, step, 2, (8, 8)) for step in range(1000)]
    mixed = [mix for mix in mixes if mix is not None]
    assert len(mixed) == pytest.approx(500, abs=60)
    assert sum(mix.box is None for mix in mixed) == pytest.approx(len(mixed) / 4, abs=50)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [({"mixup_alpha": -1}, "mixup_alpha"), ({"prob": 1.5}, "prob"), ({"mixup_share": -1}, "share")],
)
def test_impossible_settings_are_refused_by_name(arguments, field):
    with pytest.raises(ConfigError, match=field):
        MixingConfig(**arguments)


def test_selfmix_stays_within_the_image():
    config = replace(BOTH, within_image=True)
    orders = set()
    for step in range(30):
        mix = sample_mix(config, 0, step, 12, (8, 8), crops_per_image=3)
        images = torch.arange(12) // 3
        assert torch.equal(images[mix.partner], images)
        assert sorted(mix.partner.tolist()) == list(range(12))
        orders.add(tuple(mix.partner.tolist()))
    assert len(orders) > 20
