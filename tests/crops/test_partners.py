"""Mixing of crops: pixels by the formula, pairs as drawn, and by default nothing at all."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fkd.crops.partners import (
    Partner,
    StoredMixingConfig,
    blend,
    mixed_crops,
    partner_rows,
    sample_mixes,
    unmix,
)
from fkd.crops.records import CropRecords
from fkd.crops.replay import replay, sample_crops
from fkd.crops.sampling import CropConfig
from fkd.errors import ConfigError

BOTH = StoredMixingConfig(mixup_alpha=0.8, cutmix_alpha=1.0, prob=0.8, partners=3)
NUMBERS = np.arange(400)


def mixed_by_hand(own, other, share, box):
    """The documented formula, a pixel at a time, in whole numbers."""
    mixed = own.clone()
    height, width = own.shape[1:]
    top, left, bottom, right = (
        int(np.floor(edge * side / 255 + 0.5))
        for edge, side in zip(box, (height, width, height, width), strict=True)
    )
    for y in range(top, bottom):
        for x in range(left, right):
            for c in range(3):
                exact = (share * int(own[c, y, x]) + (255 - share) * int(other[c, y, x])) / 255
                mixed[c, y, x] = round(exact)
    return mixed


def noise(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


byte = st.integers(0, 255)


@given(
    share=byte, edges=st.tuples(byte, byte, byte, byte), sides=st.tuples(*[st.integers(1, 9)] * 2)
)
def test_pixels_are_those_of_the_formula(share, edges, sides):
    (top, bottom), (left, right) = sorted(edges[:2]), sorted(edges[2:])
    box = (top, left, bottom, right)
    own, other = noise(3, *sides), noise(3, *sides)
    expected = mixed_by_hand(own, other, share, box)
    blend(own, other, share, box)
    assert torch.equal(own, expected)


def test_every_sum_is_rounded_to_the_nearest():
    levels = torch.arange(256, dtype=torch.uint8)
    own = levels[:, None].expand(256, 256)[None].repeat(3, 1, 1)
    other = levels[None].expand(256, 256)[None].repeat(3, 1, 1)
    for share in (1, 100, 127, 128, 254):
        mixed = own.clone()
        blend(mixed, other, share, (0, 0, 255, 255))
        exact = (own.double() * share + other.double() * (255 - share)) / 255
        assert torch.equal(mixed.double(), exact.round())


def test_both_crops_are_cut_flipped_and_augmented_by_themselves_before_they_are_mixed():
    config, size = CropConfig(), 20
    images = [noise(3, 40, 50), noise(3, 30, 33), noise(3, 64, 41)]
    own, *theirs = (
        sample_crops(config, key, tuple(image.shape[1:]), np.arange(6))
        for key, image in zip((b"a", b"b", b"c"), images, strict=True)
    )
    extra = {
        "mix_row": np.array([1, 2, 0, 1, 2, 1], np.uint32),
        "mix_share": np.array([0, 90, 7, 200, 0, 0], np.uint8),
        "mix_box": np.zeros((6, 4), np.uint8),
    }
    extra["mix_box"][[0, 1, 3, 4]] = [
        [0, 0, 100, 255], [0, 0, 255, 255], [30, 40, 200, 250], [250, 250, 255, 255]
    ]  # fmt: skip
    # partners are mixed by their own records, too, which must not count
    others = [CropRecords(r.box, r.flip, extra) for r in theirs]
    partners = {row: Partner(images[row], others[row - 1]) for row in (1, 2)}
    found = replay(
        images[0], CropRecords(own.box, own.flip, extra), size, "bilinear", partners=partners
    )
    alone = replay(images[0], own, size, "bilinear")
    for i in range(6):
        row, share, box = (extra[name][i].tolist() for name in ("mix_row", "mix_share", "mix_box"))
        expected = alone[i]
        if any(box):
            other = replay(images[row], theirs[row - 1][i : i + 1], size, "bilinear")[0]
            expected = mixed_by_hand(alone[i], other, share, box)
        assert torch.equal(found[i], expected)


def test_a_missing_partner_is_an_error():
    records = CropRecords(
        np.array([[0, 0, 4, 4]]),
        np.zeros(1, bool),
        {
            "mix_row": np.array([3], np.uint32),
            "mix_share": np.zeros(1, np.uint8),
            "mix_box": np.full((1, 4), 255, np.uint8),
        },
    )
    with pytest.raises(ValueError, match="mixed with image 3"):
        replay(noise(3, 4, 4), records, 4, "bilinear")


def draw(config, row=5, num_images=9, stream=1, numbers=NUMBERS):
    extra = sample_mixes(config, stream, numbers, row, num_images)
    return CropRecords(np.zeros((len(numbers), 4)), np.zeros(len(numbers), bool), extra)


def test_by_default_nothing_is_drawn():
    for config in (StoredMixingConfig(), StoredMixingConfig(mixup_alpha=1.0, prob=0.0)):
        records = draw(config)
        assert records.extra == {}
        assert not mixed_crops(records).any()
        assert partner_rows(records) == []


def test_partners_are_few_and_never_the_image_itself():
    seen = set()
    for stream in range(60):
        for row in (0, 1, 2):
            rows = partner_rows(draw(BOTH, row=row, num_images=3, stream=stream))
            assert row not in rows
            assert set(rows) < {0, 1, 2}
            seen.add((row, *rows))
    assert (0, 1, 2) in seen
    assert len(partner_rows(draw(BOTH, num_images=10_000))) == 3
    assert len(partner_rows(draw(StoredMixingConfig(mixup_alpha=1.0), num_images=10_000))) == 1


def test_shares_of_the_kinds_are_as_configured():
    records = draw(StoredMixingConfig(mixup_alpha=0.8, cutmix_alpha=1.0, prob=0.6, mixup_share=0.3))
    mixed = mixed_crops(records)
    whole = (records.extra["mix_box"] == [0, 0, 255, 255]).all(axis=1)
    assert mixed.sum() == pytest.approx(240, abs=35)
    assert (whole & mixed).sum() == pytest.approx(72, abs=25)
    assert (records.extra["mix_share"][mixed & ~whole] == 0).all()
    shares = records.extra["mix_share"][whole & mixed]
    assert 90 < shares.mean() < 165
    assert len(np.unique(shares)) > 30


def test_the_mean_area_of_an_unclipped_cutmix_box_follows_from_the_beta_distribution():
    """A box of sides sqrt(1 - kept) around a uniform center: its mean area is known in closed form.

    Clipped at the border, a side s around a uniform center is s - s^2 / 4 long on average, so with
    s^2 = u uniform the area's mean is E (sqrt(u) - u / 4)^2 = 1/2 - 1/5 + 1/48.
    """
    records = draw(StoredMixingConfig(cutmix_alpha=1.0), numbers=np.arange(4000))
    top, left, bottom, right = (records.extra["mix_box"].astype(int) / 255).T
    area = ((bottom - top) * (right - left)).mean()
    assert area == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.02)


def test_draws_are_a_function_of_the_crops_address():
    whole, part = draw(BOTH), draw(BOTH, numbers=np.array([7, 3]))
    for name, array in whole.extra.items():
        np.testing.assert_array_equal(part.extra[name], array[[7, 3]])
    assert not np.array_equal(draw(BOTH, stream=2).extra["mix_box"], whole.extra["mix_box"])


def test_crops_lose_the_partners_that_cannot_be_read():
    records = draw(BOTH, num_images=100)
    lost, *kept = partner_rows(records)
    after = unmix(records, [lost])
    assert partner_rows(after) == kept
    gone = mixed_crops(records) & (records.extra["mix_row"] == lost)
    assert gone.any()
    for name, array in after.extra.items():
        assert not array[gone].any()
        np.testing.assert_array_equal(array[~gone], records.extra[name][~gone])
    assert unmix(records, []) is records


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixup_alpha": -1.0}, "must be >= 0"),
        ({"prob": 1.5}, r"stored_mixing\.prob must lie in \[0, 1\], got 1\.5"),
        ({"mixup_share": -0.1}, r"mixup_share must lie in"),
        ({"partners": 0}, "partners must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        StoredMixingConfig(**options)
