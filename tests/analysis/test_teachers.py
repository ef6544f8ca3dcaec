"""Teachers whose answers are known, and stores, side by side."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from fkd.analysis import teachers as module
from fkd.analysis.crop_sample import draw_sample, same_crops, stored_labels
from fkd.analysis.teacher_rows import report_numbers
from fkd.analysis.teachers import TeachersConfig, compare_teachers, measure_cost, over_classes
from fkd.analysis.teachers_figure import draw_teachers
from fkd.crops.replay import sample_crops
from fkd.crops.sampling import CropConfig
from fkd.data.sources import ImagesConfig, load, open_source
from fkd.errors import ConfigError, CropMismatch
from fkd.labels.arrays import decode_array
from fkd.models.preprocessing import Preprocessing
from fkd.models.single_teacher import Teacher
from fkd.models.teacher import TeacherConfig

CLASSES = ["ant", "bee", "cat", "dog"]
SIZE = 8


class Fixed(nn.Module):
    """The same logits for every crop."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x):
        return self.logits.expand(len(x), -1)


class Color(nn.Module):
    """Ten times the mean of each color, and 0: the images of a class have one color."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, x):
        return torch.cat([self.scale * x.mean((2, 3)), torch.zeros(len(x), 1)], 1)


def teacher_of(network, names=CLASSES, size=SIZE, **kwargs):
    colors = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    view = Preprocessing(input_size=size, interpolation="bilinear", crop_pct=0.9, **colors)
    return Teacher(network, name="fixed", preprocessing=view, class_names=names, **kwargs)


@pytest.fixture
def known(monkeypatch):
    """Teachers by name in the place of those that a name would load."""
    teachers = {}
    monkeypatch.setattr(module, "_load", lambda name, model: teachers[model])
    monkeypatch.setattr(module, "_TIMED_SECONDS", 0.0)
    return teachers


def config_of(image_folder, **kwargs):
    images = ImagesConfig(root=str(image_folder))
    given = {"images": images, "num_images": 15, "num_crops": 2, "device": "cpu"} | kwargs
    return TeachersConfig(**given)


def test_fixed_answers_give_known_numbers(known, image_folder):
    p = [0.7, 0.1, 0.1, 0.1]
    known["sure"] = teacher_of(Fixed([math.log(x) for x in p]))
    known["soft"] = teacher_of(Fixed([0.0, 0.0, 0.0, 0.0]))
    known["color"] = teacher_of(Color(), size=16)
    report = compare_teachers(config_of(image_folder, models={n: n for n in known}))
    sure, soft, color = report.rows
    entropy = -sum(x * math.log(x) for x in p)
    assert sure.labels.entropy == pytest.approx(entropy, abs=1e-6)
    assert soft.labels.entropy == pytest.approx(math.log(4), abs=1e-6)
    assert sure.labels.confidence == pytest.approx(0.7, abs=1e-6)
    assert sure.labels.accuracy == sure.image_accuracy == pytest.approx(1 / 3)  # always ant
    assert sure.labels.calibration_error == pytest.approx(0.7 - 1 / 3, abs=1e-6)
    assert color.labels.accuracy == color.image_accuracy == 1.0
    assert color.cost.input_size == 16
    assert report.agreement[0][1].mean_kl == pytest.approx(math.log(4) - entropy, abs=1e-6)
    other_way = sum(0.25 * math.log(0.25 / x) for x in p)
    assert report.agreement[1][0].mean_kl == pytest.approx(other_way, abs=1e-6)
    assert report.agreement[0][2].top1_agreement == pytest.approx(1 / 3)


def test_classes_are_matched_by_name(known, image_folder):
    """Another order, further classes, and classes of ImageNet by their words."""
    known["a"] = teacher_of(Fixed([3.0, 0.0, 1.0, 2.0]), ["dog", "ant", "bee", "cat"])
    known["b"] = teacher_of(Fixed([2.0, 1.0, 0.0]), ["cat", "bee", "n02219486"])
    report = compare_teachers(config_of(image_folder, models={n: n for n in known}))
    assert report.class_names == ["ant", "bee", "cat"]
    assert report.agreement[0][1].mean_kl == pytest.approx(0.0, abs=1e-9)
    expected = torch.softmax(torch.tensor([0.0, 1.0, 2.0]), 0)
    assert report.rows[0].labels.confidence == pytest.approx(float(expected[2]), abs=1e-6)


def test_the_temperature_of_a_teacher_counts(known, image_folder):
    known["t"] = teacher_of(Fixed([2.0, 0.0, 0.0, 0.0]), temperature=2.0)
    (row,) = compare_teachers(config_of(image_folder, models={"t": "t"})).rows
    assert row.labels.confidence == pytest.approx(math.e / (math.e + 3), abs=1e-6)


def test_stores_are_read_and_their_crops_shown_to_models(known, image_folder, label_store):
    known["color"] = teacher_of(Color())
    config = config_of(image_folder, models={"color": "color"}, stores={"s": str(label_store.path)})
    report = compare_teachers(config)
    row = report.rows[1]
    labels = [decode_array(label_store.codec, label_store[key].label[:2], 4) for key in label_store]
    probabilities = np.concatenate(labels)
    expected = -(probabilities * np.log(probabilities)).sum(1).mean()
    assert row.labels.entropy == pytest.approx(expected, abs=1e-5)
    truth = np.repeat([0, 1, 2], 10)
    assert row.labels.accuracy == pytest.approx((probabilities.argmax(1) == truth).mean())
    assert report.agreement[0][1].top1_agreement == pytest.approx(
        (probabilities.argmax(1) == truth).mean()  # the color is always right
    )
    assert row.cost is None
    assert row.bytes_per_crop > 0
    assert any("compressed" in remark for remark in report.remarks)


def test_stores_alone_need_no_images(label_store):
    report = compare_teachers(
        TeachersConfig(stores={"a": str(label_store.path), "b": str(label_store.path)})
    )
    assert report.num_crops == 6
    assert report.agreement[0][1].mean_kl == pytest.approx(0.0, abs=1e-9)
    assert report.rows[0].labels.accuracy is None


def test_other_crops_are_not_compared_crop_by_crop(image_source, label_store, tmp_path, make_store):
    """A store of crops drawn with another seed, written as the fixture writes its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(make_store.__globals__, "CropConfig", lambda: CropConfig(seed=5))
        other = make_store(tmp_path / "other", image_source)
    report = compare_teachers(
        TeachersConfig(stores={"a": str(label_store.path), "b": str(other.path)})
    )
    assert [row.same_crops for row in report.rows] == [True, False]
    assert report.agreement[0][1] is report.agreement[1][0] is None
    assert report.agreement[1][1].top1_agreement == 1.0
    assert any("other crops" in remark for remark in report.remarks)


def test_drawn_crops_are_those_that_label_would_draw(image_source):
    crops = CropConfig(seed=3)
    sample = draw_sample(image_source, [], num_images=4, num_crops=3, crops=crops, seed=1)
    assert len(sample.keys) == 4
    for i, key, records in zip(sample.positions, sample.keys, sample.records, strict=True):
        assert image_source.key(i) == key
        loaded = load(image_source, i)
        expected = sample_crops(crops, loaded.content_key, loaded.size, np.arange(3))
        assert np.array_equal(records.box, expected.box)
    again = draw_sample(image_source, [], num_images=4, num_crops=3, crops=crops, seed=1)
    other = draw_sample(image_source, [], num_images=4, num_crops=3, crops=crops, seed=2)
    assert again.keys == sample.keys != other.keys


def test_a_sample_of_a_store_has_its_crops(image_source, label_store):
    sample = draw_sample(
        image_source, [label_store], num_images=5, num_crops=99, crops=CropConfig(seed=9), seed=0
    )
    assert len(sample.numbers) == 6
    assert same_crops(label_store, sample)
    assert stored_labels(label_store, sample).shape == (30, 4)


def test_a_changed_image_is_refused(make_images, make_store, tmp_path):
    root = make_images(tmp_path / "images", per_class=1)
    source = open_source(ImagesConfig(root=str(root)))
    store = make_store(tmp_path / "store", source)
    make_images(tmp_path / "new", per_class=1, seed=1)
    (tmp_path / "new" / "bee" / "0.png").replace(root / "bee" / "0.png")
    with pytest.raises(CropMismatch, match=r"bee/0\.png is not the file that was labeled"):
        draw_sample(source, [store], num_images=3, num_crops=1, crops=CropConfig(), seed=0)


def test_unreadable_images_are_passed_over(known, make_images, tmp_path):
    root = make_images(tmp_path / "images", per_class=2)
    (root / "bee" / "0.png").write_bytes(b"no image")
    known["t"] = teacher_of(Fixed([0.0, 0.0, 0.0, 0.0]))
    report = compare_teachers(config_of(root, models={"t": "t"}))
    assert report.num_images == 5
    assert any("1 images cannot be read" in remark for remark in report.remarks)


def test_operations_are_counted_and_time_is_measured(monkeypatch):
    monkeypatch.setattr(module, "_TIMED_SECONDS", 0.0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.Flatten(), nn.Linear(180, 4))
    cost = measure_cost(teacher_of(network), 3, torch.device("cpu"))
    assert cost.macs == 5 * 3 * 9 * 36 + 180 * 4
    assert cost.num_parameters == 135 + 180 * 4 + 4
    assert cost.milliseconds > 0


def test_probabilities_over_some_classes():
    found = over_classes(torch.tensor([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]]), [2, 0])
    assert torch.allclose(found, torch.tensor([[5 / 7, 2 / 7], [0.5, 0.5]]))


@pytest.mark.parametrize("key", ["entropy", "confidence", "crop_accuracy", "ms", "calibration"])
def test_rows_and_columns_are_sorted_together(key, known, image_folder, label_store):
    known["sure"] = teacher_of(Fixed([5.0, 0.0, 0.0, 0.0]))
    known["color"] = teacher_of(Color())
    stores = {"s": str(label_store.path)}
    report = compare_teachers(config_of(image_folder, models={n: n for n in known}, stores=stores))
    ordered = report.sorted(key)
    values = {
        "entropy": lambda row: row.labels.entropy,
        "confidence": lambda row: row.labels.confidence,
        "crop_accuracy": lambda row: -row.labels.accuracy,
        "ms": lambda row: row.cost.milliseconds if row.cost else math.inf,
        "calibration": lambda row: row.labels.calibration_error,
    }[key]
    assert [values(r) for r in ordered.rows] == sorted(values(r) for r in report.rows)
    places = {row.name: i for i, row in enumerate(report.rows)}
    for i, row in enumerate(ordered.rows):
        for j, column in enumerate(ordered.rows):
            before = report.agreement[places[row.name]][places[column.name]]
            assert ordered.agreement[i][j] == before


def test_the_figure_shows_every_row(known, image_folder):
    for i in range(10):
        known[f"$t{i}_a_long_name_of_a_teacher"] = teacher_of(Fixed([float(i), 0.0, 0.0, 0.0]))
    report = compare_teachers(config_of(image_folder, models={n: n for n in known}))
    figure = draw_teachers(report)
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names[3] == "\\$t3_a_long_name_o\u2026"
    assert len(names) == len(figure.axes[2].get_yticks()) == len(figure.axes[3].patches) == 10
    assert len(json.dumps(report_numbers(report))) > 1000


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "nothing to compare"),
        ({"models": {"a": "resnet18"}}, "images.root: models need images"),
        ({"stores": {"a": "x"}, "classes": "dataset"}, "classes: dataset"),
        ({"stores": {"a": "x"}, "models": {"a": "y"}}, r"models\.a: a store has this name"),
        ({"stores": {"a": "x"}, "num_images": 0}, "num_images"),
        ({"stores": {"a": "x"}, "num_crops": 0}, "num_crops"),
        ({"stores": {"a": "x"}, "batch_size": 0}, "batch_size"),
    ],
)
def test_settings_that_cannot_be(settings, said):
    with pytest.raises(ConfigError, match=said):
        TeachersConfig(**settings)


def test_what_has_no_labels_of_classes_is_refused(image_folder, map_store):
    with pytest.raises(ConfigError, match=r"stores\.maps: .* holds label maps"):
        compare_teachers(TeachersConfig(stores={"maps": str(map_store.path)}))
    with pytest.raises(ConfigError, match=r"models\.net: .* are no settings of a teacher"):
        compare_teachers(config_of(image_folder, models={"net": "{nme: resnet18}"}))
    headless = TeacherConfig("test_resnet", output="features", checkpoint="nowhere")
    with pytest.raises(ConfigError, match=r"models\.net: "):
        compare_teachers(config_of(image_folder, models={"net": headless}))


def test_teachers_without_common_classes_are_refused(known, image_folder):
    known["a"] = teacher_of(Fixed([0.0, 1.0]), ["ant", "bee"])
    known["b"] = teacher_of(Fixed([0.0, 1.0]), ["bee", "cow"])
    with pytest.raises(ConfigError, match=r"models\.a and models\.b have 1 classes in common"):
        compare_teachers(config_of(image_folder, models={n: n for n in known}))
    known["c"] = teacher_of(Fixed([0.0, 1.0, 2.0]), ["ant", "bee", "cow"])
    with pytest.raises(ConfigError, match=r"models\.c: 1 of 3 classes are unknown"):
        compare_teachers(config_of(image_folder, models={"c": "c"}, classes="dataset"))
