"""Fig. 2: criteria on constructed labels, and what the pictures show."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from fkd.analysis.label_criteria import CRITERIA, LabelStatistics, choose_examples
from fkd.analysis.label_examples import (
    LabelExamplesConfig,
    find_examples,
    open_examples,
)
from fkd.analysis.label_figure import describe_others, draw_examples, format_probability
from fkd.analysis.samples import SampleConfig
from fkd.crops.replay import replay
from fkd.data.identity import load_labeled
from fkd.data.sources import ImagesConfig
from fkd.errors import ConfigError, StoreMismatch
from fkd.labeling.config import LabelConfig
from fkd.labeling.run import label
from fkd.labels.codec_names import parse_codec
from fkd.labels.codecs import MarginalSmoothing, decode
from fkd.labels.pooling import pool_maps, roi_align_weights
from fkd.models.teacher import TeacherConfig, load_teachers

C = 10


def label_of(first: int, p: float) -> np.ndarray:
    """Probability p for a class, the rest spread evenly."""
    q = np.full(C, (1 - p) / (C - 1))
    q[first] = p
    return q


# (ReLabel, FKD, area, true class): one crop for each criterion, and one for none
CASES = {
    1: (label_of(0, 0.97), label_of(0, 0.6), 0.5, 0),
    2: (label_of(1, 0.8), label_of(2, 0.8), 0.5, 2),
    3: (label_of(3, 0.5), label_of(4, 0.75), 0.2, 4),
    4: (label_of(5, 0.12), label_of(5, 0.9), 0.5, 5),
    0: (label_of(6, 0.9), label_of(6, 0.9), 0.5, 6),
}


def statistics_of(*numbers, truth=True) -> LabelStatistics:
    relabel, fkd, area, classes = zip(*(CASES[number] for number in numbers), strict=True)
    known = np.array(classes) if truth else np.full(len(classes), -1)
    return LabelStatistics.of(np.array(relabel), np.array(fkd), np.array(area), known)


def test_statistics_are_what_their_names_say():
    found = statistics_of(2)
    r, f = CASES[2][:2]
    assert found.kl[0] == pytest.approx(sum(f * np.log(f / r)))
    assert found.relabel_entropy[0] == pytest.approx(-sum(r * np.log(r)))
    assert (found.relabel_max[0], found.fkd_max[0]) == (0.8, 0.8)
    assert (found.relabel_class[0], found.fkd_class[0], found.truth[0]) == (1, 2, 2)


def test_each_case_meets_its_own_criterion_only():
    statistics = statistics_of(*CASES)
    met = {c.number: np.flatnonzero(c.margins(statistics, C).min(0) > 0).tolist() for c in CRITERIA}
    assert met == {1: [0], 2: [1], 3: [2], 4: [3]}


def test_one_crop_a_criterion():
    choices, notes = choose_examples(statistics_of(*CASES), np.arange(5), C, 2)
    assert [(c.criterion.number, c.index, c.met) for c in choices] == [
        (1, 0, True),
        (2, 1, True),
        (3, 2, True),
        (4, 3, True),
    ]
    assert notes == []
    assert choices[0].values == "maximum 0.97 of ReLabel, 0.60 of FKD"
    assert choices[2].values == "area 20%, FKD's true class 0.75"


def test_the_clearest_come_first_and_no_image_twice():
    more = LabelStatistics.concatenate([statistics_of(1)] * 4)
    clearer = np.array([0.6, 0.3, 0.2, 0.4])
    more.fkd_max[:] = clearer
    choices, _ = choose_examples(more, np.array([0, 1, 1, 2]), C, 2)
    assert [c.index for c in choices if c.criterion.number == 1] == [2, 3]


def test_where_no_crop_meets_a_criterion_the_nearest_is_shown():
    choices, notes = choose_examples(statistics_of(0, 0, 0, 0), np.arange(4), C, 3)
    assert [(c.criterion.number, c.met) for c in choices] == [(1, False), (2, False), (4, False)]
    assert [note.partition(") ")[0] for note in notes] == [
        f"no crop of 4 meets ({number}" for number in (1, 2, 3, 4)
    ]
    assert [note.endswith("the nearest is shown") for note in notes] == [True, True, False, True]


def test_without_true_classes_a_criterion_is_left_out():
    choices, notes = choose_examples(statistics_of(*CASES, truth=False), np.arange(5), C, 1)
    assert [c.criterion.number for c in choices] == [1, 2, 4]
    assert notes == ["(3) is left out: the true classes are not known"]


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (1.0, "1.00"),
        (0.014, "0.01"),
        (0.0042, "0.004"),
        (0.00021, "2e-4"),
        (3e-12, "3e-12"),
        (0.0, "0"),
    ],
)
def test_probabilities_are_short(p, text):
    assert format_probability(p) == text


def test_other_classes_in_gray():
    assert describe_others(np.array([])) == []
    assert describe_others(np.zeros(7)) == ["7 other classes, all 0"]
    assert describe_others(np.array([0.02, 0.001])) == [
        "0.02  0.001",
        "2 other classes, together 0.02",
    ]
    first, last = describe_others(np.full(95, 0.001))
    assert first.endswith("\N{HORIZONTAL ELLIPSIS}")
    assert last == "95 other classes, together 0.10"


@pytest.fixture
def make_config(image_folder, label_store, map_store):
    def make(**options) -> LabelExamplesConfig:
        settings = {
            "images": ImagesConfig(root=str(image_folder)),
            "store": str(label_store.path),
            "maps": str(map_store.path),
            "sample": SampleConfig(crops_per_image=6),
        }
        return LabelExamplesConfig(**(settings | options))

    return make


def texts_of(figure) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_labels_are_those_of_the_shown_crop(make_config, make_store, image_source, tmp_path):
    """Pooled at the same box, as stored, and what ms:K leaves of it."""
    store = make_store(tmp_path / "full", image_source, codec="full")
    setup = open_examples(make_config(store=str(store.path), kept=2))
    seen = []
    examples, _ = find_examples(setup, seen.append)
    assert sum(seen) == 15
    assert len(examples) >= 3
    for example in examples:
        stored = store[example.key]
        full = stored.decode()[example.crop_number]
        box = stored.records.box[example.crop_number]
        assert example.box == tuple(box.tolist())
        row = store.rows([example.key])
        maps = setup.maps.store
        weights = roi_align_weights(box, np.array(stored.size), maps.grid)[None, None]
        label = maps.read(row).label
        relabel = pool_maps(label.ids, label.values, weights, 4).dense()[0]
        codec = MarginalSmoothing(2)
        smoothed = decode(codec, codec.encode(full[None]), 4)[0]
        assert [strip.title for strip in example.strips] == [
            "ReLabel, at the same box",
            "FKD, full",
            "FKD, ms:2",
        ]
        for strip, expected in zip(example.strips, (relabel, full, smoothed), strict=True):
            np.testing.assert_allclose(strip.probabilities, expected.numpy(), atol=1e-7)
        image = load_labeled(store, setup.images, int(row[0]))
        assert torch.equal(example.image, image)
        assert example.truth == example.key[:3].decode()


def test_labels_as_stored_where_no_others_are_known(make_config):
    setup = open_examples(make_config())
    assert any("--teacher.name" in note for note in setup.notes)
    examples, _ = find_examples(setup)
    assert [strip.title for strip in examples[0].strips][1:] == ["FKD, ms:2 as stored"]
    with pytest.raises(ConfigError, match=r"kept: .* keeps ms:2 labels"):
        open_examples(make_config(kept=1))
    with pytest.raises(ConfigError, match="keeps 5 classes but there are only 4"):
        open_examples(make_config(kept=5))


def test_the_teacher_labels_the_shown_crops_again(
    make_config, make_maps, image_source, image_folder, tmp_path
):
    torch.manual_seed(0)
    weights = tmp_path / "teacher.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=4).state_dict(), weights)
    teacher = TeacherConfig("test_resnet", checkpoint=str(weights), input_size=32)
    images = ImagesConfig(root=str(image_folder))
    label(
        LabelConfig(
            images=images,
            teacher=teacher,
            out=str(tmp_path / "store"),
            num_crops=3,
            codec=parse_codec("ms:2"),
            accuracy_images=0,
            spot_checks=0,
        )
    )
    maps = make_maps(tmp_path / "maps", image_source, class_names=("0", "1", "2", "3"))
    places = {"store": str(tmp_path / "store"), "maps": str(maps.path)}
    examples, notes = find_examples(open_examples(make_config(**places, teacher=teacher)))
    assert any("(3) is left out" in note for note in notes)  # its classes have no names
    _, full, kept = examples[0].strips
    assert (full.title, kept.title) == ("FKD, full", "FKD, ms:2")
    ensemble = load_teachers([teacher])
    record = open_examples(make_config(**places)).store[examples[0].key].records
    crop = replay(
        examples[0].image, record[[examples[0].crop_number]], 32, ensemble.views[0].interpolation
    )
    expected = ensemble.probabilities([crop])[0].numpy()
    np.testing.assert_allclose(full.probabilities, expected, atol=1e-6)
    other = TeacherConfig("test_resnet", checkpoint=str(weights), input_size=48)
    with pytest.raises(StoreMismatch, match="another teacher"):
        open_examples(make_config(**places, teacher=other))


def test_the_figure_names_criterion_values_and_classes(
    make_config, make_store, image_source, tmp_path
):
    names = ("ant", "bee", "cat", "$dog$")
    store = make_store(tmp_path / "full", image_source, codec="full", class_names=names)
    maps = make_config().maps
    config = make_config(store=str(store.path))
    with pytest.raises(StoreMismatch, match="lacks 1 of the 4 classes"):
        open_examples(config)  # the maps say dog
    store = make_store(tmp_path / "named", image_source, codec="full")
    examples, _ = find_examples(open_examples(make_config(store=str(store.path), maps=maps)))
    figure = draw_examples(examples, names, 4)
    texts = texts_of(figure)
    for example in examples:
        number = f"({example.choice.criterion.number})"
        title = next(text for text in texts if number in text)
        assert example.choice.values in title
        assert ("nearest" in title) == (not example.choice.met)
        for strip in example.strips:
            assert strip.title in texts
            assert {format_probability(p) for p in strip.probabilities.tolist()} <= set(texts)
    assert r"\$dog\$" in texts
    boxes = [patch for axes in figure.axes for patch in axes.patches if not patch.get_fill()]
    assert len(boxes) == 2 * len(examples)
    pictures = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert [p.shape for p in pictures[:2]] == [
        (*examples[0].image.shape[1:], 3),
        (*examples[0].crop.shape[1:], 3),
    ]


def test_a_long_name_of_a_class_ends_before_the_crop(make_config, make_store, image_source):
    examples, _ = find_examples(open_examples(make_config()))
    named = replace(examples[0], truth="American Staffordshire terrier")
    figure = draw_examples([named], ("ant", "bee", "cat", "dog"), 3)
    (name,) = [text for text in figure.texts if text.get_text().startswith("class ")]
    (crop,) = [text for text in figure.texts if text.get_text().startswith("crop")]
    assert name.get_window_extent().x1 < crop.get_window_extent().x0
