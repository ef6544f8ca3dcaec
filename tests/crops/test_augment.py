import numpy as np
import pytest
import torch
import torchvision.transforms.functional as pillow
import torchvision.transforms.v2.functional as TF
from PIL import Image, ImageFilter

from fkd.crops.augment import _RAND_AUGMENT, AugmentConfig, apply_augment, sample_augment
from fkd.crops.replay import replay, sample_crops
from fkd.crops.sampling import CropConfig
from fkd.errors import ConfigError, FormatError

EVERYTHING = AugmentConfig(
    color_jitter=(0.4, 0.4, 0.4, 0.1),
    lighting=0.1,
    grayscale_prob=0.5,
    blur_prob=0.5,
    rand_augment_ops=2,
    erase_prob=0.5,
)
IMAGE = torch.randint(0, 256, (3, 80, 90), dtype=torch.uint8)


def params(**values):
    return {name: np.asarray([value]) for name, value in values.items()}


def test_nothing_is_drawn_by_default():
    assert AugmentConfig().columns == {}
    assert sample_augment(AugmentConfig(), 1, np.arange(3)) == {}


def test_columns_say_dtype_and_shape_of_what_is_drawn():
    sampled = sample_augment(EVERYTHING, 1, np.arange(7))
    assert set(sampled) == set(EVERYTHING.columns)
    for name, (dtype, shape) in EVERYTHING.columns.items():
        assert sampled[name].dtype == np.dtype(dtype)
        assert sampled[name].shape == (7, *shape)


def test_one_augmentation_does_not_move_another():
    alone = sample_augment(AugmentConfig(erase_prob=0.5), 1, np.arange(9))["erase"]
    np.testing.assert_array_equal(alone, sample_augment(EVERYTHING, 1, np.arange(9))["erase"])


def test_parameters_lie_in_their_ranges():
    sampled = sample_augment(EVERYTHING, 1, np.arange(4000))
    factors = sampled["jitter"]
    assert factors[:, :3].min() >= 0.6
    assert factors[:, :3].max() <= 1.4
    assert np.abs(factors[:, 3]).max() <= 0.1
    assert set(sampled["jitter_order"]) == set(range(24))
    assert abs(sampled["gray"].mean() - 0.5) < 0.04
    assert abs((sampled["blur"] > 0).mean() - 0.5) < 0.04
    erased = sampled["erase"][sampled["erase"][:, 2] > 0]
    assert abs(len(erased) / 4000 - 0.5) < 0.04
    assert (erased[:, :2] + erased[:, 2:]).max() <= 1.0 + 1e-6
    assert set(sampled["rand_op"].ravel()) == set(range(14))


def test_replay_is_a_pure_function_of_the_record():
    records = sample_crops(CropConfig(), b"k", (80, 90), np.arange(12), EVERYTHING)
    first = replay(IMAGE, records, 48, "bilinear")
    assert torch.equal(first, replay(IMAGE, records, 48, "bilinear"))
    assert torch.equal(first[5:6], replay(IMAGE, records[5:6], 48, "bilinear"))


def test_color_jitter_applies_its_factors_in_its_order():
    crop = IMAGE[None].clone()
    order = 9  # (1, 2, 3, 0): contrast, saturation, hue, brightness
    out = apply_augment(crop.clone(), params(jitter=[1.2, 0.7, 1.3, 0.05], jitter_order=order))
    expected = TF.adjust_saturation(TF.adjust_contrast(crop[0], 0.7), 1.3)
    expected = TF.adjust_brightness(TF.adjust_hue(expected, 0.05), 1.2)
    assert torch.equal(out[0], expected)


def test_lighting_moves_colors_along_imagenets_components():
    """Its covariance is V diag(0.1 l)^2 V^T; the pixels get the same shift everywhere."""
    drawn = sample_augment(AugmentConfig(lighting=0.1), 3, np.arange(20_000))["lighting"]
    vectors = np.array(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    )
    values = 0.1 * np.array([0.2175, 0.0188, 0.0045])
    expected = vectors @ np.diag(values**2) @ vectors.T
    assert np.abs(drawn.mean(0)).max() < 4 * 0.0217 / np.sqrt(20_000)
    np.testing.assert_allclose(np.cov(drawn.T), expected, atol=0.04 * expected.max())
    lit = apply_augment(IMAGE[None].clone(), params(lighting=[0.1, -0.2, 0.0]))
    shift = torch.tensor([25.5, -51.0, 0.0])[:, None, None]
    assert torch.equal(lit[0], (IMAGE + shift).round().clamp(0, 255).byte())


def test_gray_makes_the_channels_equal_and_blur_smooths():
    gray = apply_augment(IMAGE[None].clone(), params(gray=1))
    assert torch.equal(gray[0, 0], gray[0, 1])
    blurred = apply_augment(IMAGE[None].clone(), params(blur=4.0))
    assert blurred.float().std() < 0.7 * IMAGE.float().std()


def test_erasing_covers_its_rectangle_only():
    out = apply_augment(IMAGE[None].clone(), params(erase=[0.25, 0.5, 0.5, 0.25]))[0]
    top, left, height, width = 20, 45, 40, 22
    changed = (out != IMAGE).any(0)
    assert (out[0, top : top + height, left : left + width] == 124).all()
    changed[top : top + height, left : left + width] = False
    assert not changed.any()


@pytest.mark.parametrize("op", range(1, len(_RAND_AUGMENT)))
def test_every_rand_augment_operation_changes_the_crop_and_keeps_its_form(op):
    strong = {6: 1.9, 7: 1.9, 8: 1.9, 9: 1.9, 10: 4.0, 11: 100.0, 5: 30.0}.get(op, 0.3)
    image = (IMAGE.float() * 0.5 + 30).to(torch.uint8)
    out = apply_augment(image[None].clone(), params(rand_op=[op], rand_magnitude=[strong]))[0]
    assert out.shape == image.shape
    assert out.dtype == torch.uint8
    assert not torch.equal(out, image)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("grayscale_prob", 2.0),
        ("color_jitter", (0.1, 0.1, 0.1, 0.9)),
        ("rand_augment_magnitude", 99.0),
        ("rand_augment_ops", -1),
    ],
)
def test_impossible_settings_are_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=field):
        AugmentConfig(**{field: value})


SOUND = {
    "jitter": [[1.0, 1.0, 1.0, 0.0]],
    "jitter_order": [0],
    "lighting": [[0.0, 0.0, 0.0]],
    "blur": [0.5],
    "rand_op": [[6]],
    "rand_magnitude": [[1.0]],
    "erase": [[0.0, 0.0, 0.5, 0.5]],
}
IMPOSSIBLE = {
    "jitter": ([[-1.0, 1.0, 1.0, 0.0]], [[1.0, 1.0, 1.0, 0.6]], [[1.0, 1.0]], [1.0]),
    "jitter_order": ([24], [255], [[0]]),
    "lighting": ([[np.nan] * 3], [[np.inf] * 3], [[0.0]]),
    "blur": ([np.nan], [-1.0], [np.inf]),
    "rand_op": ([[14]], [[255]], [[6, 6]]),
    "rand_magnitude": ([[np.nan]], [[np.inf]], [[-np.inf]], [[2.0]], [[-9.0]], [[1.0, 1.0]]),
    "erase": ([[np.nan] * 4], [[0.0, 0.0, 2.0, 0.5]], [[0.0, 0.0]]),
}


@pytest.mark.parametrize(("name", "values"), [(n, v) for n, vs in IMPOSSIBLE.items() for v in vs])
def test_parameters_that_nobody_draws_are_refused(name, values):
    """A store that somebody else made may hold any numbers."""
    crops = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    extra = {key: np.array(value) for key, value in SOUND.items()}
    apply_augment(crops.clone(), extra)
    with pytest.raises(FormatError, match="impossible parameters"):
        apply_augment(crops, extra | {name: np.array(values)})


@pytest.mark.parametrize("op", range(14))
@pytest.mark.parametrize("magnitude", [np.nan, np.inf, -np.inf])
def test_no_operation_takes_a_magnitude_that_is_not_finite(op, magnitude):
    """Some take none at all, and divide by an infinite reach."""
    extra = {"rand_op": np.array([[op]]), "rand_magnitude": np.array([[magnitude]])}
    with pytest.raises(FormatError, match="impossible parameters of rand_magnitude"):
        apply_augment(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), extra)


PRESETS = {"s2bnn": (0.6, 0.2, 0.2), "moco_v2": (0.8, 0.2, 0.5)}  # jitter, gray, blur


@pytest.mark.parametrize(("name", "shares"), PRESETS.items())
def test_a_preset_draws_with_the_probabilities_of_its_paper(name, shares):
    config = AugmentConfig(preset=name)
    assert config.color_jitter == (0.4, 0.4, 0.4, 0.1)
    assert set(config.columns) == {"jitter", "jitter_order", "gray", "blur"}
    drawn = sample_augment(config, 5, np.arange(20_000))
    jittered = (drawn["jitter"] != [1.0, 1.0, 1.0, 0.0]).any(1)
    blurred = drawn["blur"] > 0
    measured = [jittered.mean(), drawn["gray"].mean(), blurred.mean()]
    np.testing.assert_allclose(measured, shares, atol=4 * 0.5 / np.sqrt(20_000))
    assert 0.1 <= drawn["blur"][blurred].min() < 0.11
    assert 1.99 < drawn["blur"].max() <= 2.0


def test_a_preset_is_nothing_but_its_values():
    written_out = AugmentConfig(
        color_jitter=(0.4, 0.4, 0.4, 0.1),
        color_jitter_prob=0.6,
        grayscale_prob=0.2,
        blur_prob=0.2,
    )
    assert AugmentConfig(preset="s2bnn") == written_out
    assert AugmentConfig(preset="s2bnn", blur_prob=0.7).blur_prob == 0.7
    assert AugmentConfig(preset="s2bnn", lighting=0.1).columns.keys() > written_out.columns.keys()
    with pytest.raises(ConfigError, match="preset: 'byol' is none of s2bnn, moco_v2"):
        AugmentConfig(preset="byol")


def naive_s2bnn(crop, extra):
    """The operations of the authors' pipeline on a Pillow image, with parameters of a record."""
    image = Image.fromarray(crop.permute(1, 2, 0).numpy())
    brightness, contrast, saturation, hue = map(float, extra["jitter"])
    steps = [
        lambda i: pillow.adjust_brightness(i, brightness),
        lambda i: pillow.adjust_contrast(i, contrast),
        lambda i: pillow.adjust_saturation(i, saturation),
        lambda i: pillow.adjust_hue(i, hue),
    ]
    orders = [(a, b, c, d) for a in range(4) for b in range(4) for c in range(4) for d in range(4)]
    orders = [order for order in orders if len(set(order)) == 4]  # all 24, sorted
    for step in orders[int(extra["jitter_order"])]:
        image = steps[step](image)
    if extra["gray"]:
        image = image.convert("L").convert("RGB")
    if extra["blur"] > 0:
        image = image.filter(ImageFilter.GaussianBlur(float(extra["blur"]) * crop.shape[-1] / 224))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_records_of_s2bnn_replay_as_the_authors_operations_of_pillow():
    """Pillow rounds hues to 256 steps, and approximates a Gaussian by boxes."""
    y, x = torch.meshgrid(torch.arange(120), torch.arange(140), indexing="ij")
    image = torch.stack([2 * y, x + 40, 255 - y - x // 2]).clamp(0, 255).to(torch.uint8)
    config = AugmentConfig(preset="s2bnn")
    records = sample_crops(CropConfig(scale=(0.2, 1.0)), b"k", (120, 140), np.arange(60), config)
    plain = replay(image, type(records)(records.box, records.flip), 112, "bilinear")
    ours = replay(image, records, 112, "bilinear").float()
    inner = slice(8, -8)  # at the border the two repeat and reflect pixels
    for number in range(60):
        extra = {name: values[number] for name, values in records.extra.items()}
        expected = naive_s2bnn(plain[number], extra).float()
        difference = (ours[number] - expected)[:, inner, inner].abs()
        assert difference.mean() < 3, extra
        assert difference.max() <= 20, extra


def test_stored_parameters_replay_to_the_same_bits():
    """Also out of a store, as arrays of their own dtypes, alone and among others."""
    config = AugmentConfig(preset="s2bnn")
    records = sample_crops(CropConfig(), b"k", (80, 90), np.arange(20), config)
    first = replay(IMAGE, records, 48, "bilinear")
    copied = records.map(
        lambda array: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)
    )
    assert torch.equal(first, replay(IMAGE, copied, 48, "bilinear"))
    for number in range(20):
        alone = replay(IMAGE, records[number : number + 1], 48, "bilinear")
        assert torch.equal(first[number : number + 1], alone)
    assert not torch.equal(
        first, replay(IMAGE, type(records)(records.box, records.flip), 48, "bilinear")
    )
