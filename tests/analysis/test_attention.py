"""Which images and classes maps are of, what is measured of them, and what is drawn."""

import json
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from fkd.analysis.attention import AttentionReport, Explanation, compare_attention
from fkd.analysis.attention_config import (
    AttentionConfig,
    choose_images,
    find_images,
    label_models,
)
from fkd.analysis.attention_figure import attention_numbers, draw_attention, summarize
from fkd.analysis.figures import save_analysis
from fkd.data.sources import ImagesConfig, load, open_source
from fkd.errors import ConfigError
from fkd.evaluation.accuracy import center_crop
from fkd.models.lookup import find_model

pytest.importorskip("captum", reason="the extra `analysis` is needed")

LONG = "a very long name of a class, which no caption of a single cell could hold"
NAMES = {"relu": ["ant", "bee", "cat"], "gelu": ["cat", "ant", "$\\alpha$ <b>bee</b>", LONG]}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of a network with ReLUs, and of one without."""
    root = tmp_path_factory.mktemp("models")
    for folder, network in (("relu", "test_resnet"), ("gelu", "test_convnext")):
        torch.manual_seed(0)
        names = NAMES[folder]
        (root / folder).mkdir()
        model = timm.create_model(network, num_classes=len(names))
        save_file(model.state_dict(), root / folder / "model.safetensors")
        card = {
            "architecture": network,
            "num_classes": len(names),
            "label_names": names,
            "pretrained_cfg": {
                "input_size": [3, 64, 64] if folder == "relu" else [3, 96, 96],
                "crop_pct": 0.9,
                "interpolation": "bilinear",
                "mean": [0.5, 0.5, 0.5],
                "std": [0.25, 0.25, 0.25],
            },
        }
        (root / folder / "config.json").write_text(json.dumps(card))
    return {name: str(root / name) for name in NAMES}


@pytest.fixture
def config(models, image_folder):
    return AttentionConfig(
        models=list(models.values()),
        images=ImagesConfig(root=str(image_folder)),
        num_shown=2,
        num_images=5,
        batch_size=2,
        num_workers=0,
        device="cpu",
    )


def naive_area(map_, side):
    """Positions of the enlarged map above the middle of its values, counted one by one."""
    size = len(map_)
    count = 0
    for i in range(side):
        for j in range(side):
            rows, columns = (
                min(max((at + 0.5) * size / side - 0.5, 0.0), size - 1.0) for at in (i, j)
            )
            top, left = int(rows), int(columns)
            bottom, right = min(top + 1, size - 1), min(left + 1, size - 1)
            down, across = rows - top, columns - left
            value = (
                (1 - down) * ((1 - across) * map_[top][left] + across * map_[top][right])
                + down * ((1 - across) * map_[bottom][left] + across * map_[bottom][right])
            )  # fmt: skip
            count += value > 0.5
    return count / side**2


def test_what_is_measured(config, models):
    report = compare_attention(replace(config, num_shown=5, num_images=5))
    assert sorted(report.shown) == sorted(report.measured)
    for model, (name, folder) in zip(report.models, models.items(), strict=True):
        assert (model.model, model.label, model.layer.grid.side) == (
            folder,
            name,
            2 + (name != "relu"),
        )
        loaded = find_model(folder)
        network = loaded.model.eval()
        measured = dict(
            zip(report.measured, zip(model.areas, model.confidences, strict=True), strict=True)
        )
        for i, shown in zip(report.shown, model.shown, strict=True):
            crop = center_crop(load(report.source, i).image, loaded.preprocessing)
            assert torch.equal(shown.crop, crop)
            with torch.no_grad():
                probabilities = network(loaded.preprocessing.normalize(crop[None]))[0].softmax(0)
            best = int(probabilities.argmax())
            assert shown.predicted == shown.target == NAMES[name][best]
            assert shown.probability == pytest.approx(float(probabilities[best]), rel=1e-4)
            assert measured[i][1] == pytest.approx(shown.probability, rel=1e-4)
            if not np.isnan(shown.area):
                assert shown.area == pytest.approx(
                    naive_area(shown.map.tolist(), crop.shape[-1]), abs=2e-3
                )
                assert measured[i][0] == pytest.approx(shown.area, abs=2e-3)
    assert any(not np.isnan(shown.area) for model in report.models for shown in model.shown)


def test_the_columns_that_a_network_has(config):
    relu, gelu = compare_attention(config).models
    assert relu.has_guided
    assert relu.shown[0].guided.shape == relu.shown[0].guided_cam.shape == (3, 64, 64)
    assert not gelu.has_guided
    assert gelu.shown[0].guided_cam is None
    assert any("gelu has no ReLU but GELU" in remark for remark in gelu.remarks)
    assert not any("ReLU" in remark for remark in relu.remarks)


def test_the_product_with_the_map():
    map_ = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    guided = torch.ones(3, 4, 4)
    shown = Explanation(torch.zeros(3, 4, 4), "a", 1.0, "a", 1.0, map_, 0.5, guided)
    assert shown.guided_cam[1, 2].tolist() == pytest.approx([0.0, 0.25, 0.75, 1.0])


@pytest.mark.parametrize(("target", "expected"), [("cat", "cat"), ("ANT", "ant")])
def test_the_map_of_a_class_by_name(config, target, expected):
    for model in compare_attention(replace(config, target=target)).models:
        assert {shown.target for shown in model.shown} == {expected}


def test_the_map_of_the_true_class(config, models):
    report = compare_attention(replace(config, models=[models["relu"]], target="truth"))
    (model,) = report.models
    names = [report.source.class_names[report.source.label(i)] for i in report.shown]
    assert [shown.target for shown in model.shown] == names


def test_the_map_of_a_true_class_that_is_a_number(config, models, make_images, tmp_path):
    root = make_images(tmp_path / "numbered", ("0", "1", "2"))
    images = ImagesConfig(root=str(root), classes="by_number")
    changed = replace(config, images=images, models=[models["relu"]], target="truth")
    report = compare_attention(changed)
    (model,) = report.models
    names = [NAMES["relu"][report.source.label(i)] for i in report.shown]
    assert [shown.target for shown in model.shown] == names


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target": "truth"}, "gelu does not know the class 'bee' .it knows 4 such as cat, ant"),
        ({"target": "elk"}, "relu does not know the class 'elk' .it knows 3 such as ant, bee, cat"),
        ({"layer": "layer9"}, "has no layer 'layer9' .did you mean layer"),
        ({"layer": "auto,layer1"}, "gelu has no layer 'layer1'"),
        ({"shown": ["ant/9.png"]}, "has no image ant/9.png; give a path below it"),
        ({"shown": ["1.png"]}, "has 3 images 1.png; give a path below it"),
    ],
)
def test_what_is_not_there(config, changes, words):
    with pytest.raises(ConfigError, match=words):
        compare_attention(replace(config, **changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": []}, "models: give at least one"),
        ({"checkpoint": "x"}, "checkpoint: is of a single model, but there are 2"),
        ({"layer": "a,b,c"}, "names 3 layers, but there are 2 models"),
        ({"num_shown": 0}, "num_shown must be at least 1"),
        ({"num_images": 0}, "num_images must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"num_workers": -1}, "num_workers must be at least 0"),
    ],
)
def test_settings_that_cannot_be(config, changes, words):
    with pytest.raises(ConfigError, match=words):
        replace(config, **changes)


def test_images_without_classes_have_no_true_one(config, image_folder):
    flat = ImagesConfig(root=str(image_folder), format="flat")
    with pytest.raises(ConfigError, match=r"target truth: .* has no class"):
        compare_attention(replace(config, images=flat, target="truth"))


def test_a_model_without_classes(config, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=0)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"architecture": "test_resnet", "num_classes": 0}')
    with pytest.raises(ConfigError, match="gives embeddings and no classes"):
        compare_attention(replace(config, models=[str(tmp_path)]))


def test_layers_by_model(config):
    names = [
        model.layer.name
        for model in compare_attention(replace(config, layer="layer3, auto")).models
    ]
    assert names[0] == "layer3"


def test_drawn_images_are_of_different_classes_first(image_source, config):
    for seed in range(5):
        shown, measured, _ = choose_images(
            image_source, replace(config, num_shown=4, seed=seed, num_images=12)
        )
        assert sorted({image_source.label(i) for i in shown[:3]}) == [0, 1, 2]
        assert len({*shown}) == 4
        assert len({*measured}) == 12
    assert choose_images(image_source, config) == choose_images(image_source, config)
    all_of_them = choose_images(image_source, replace(config, num_images=99))[1]
    assert sorted(all_of_them) == list(range(15))


def test_images_that_cannot_be_read_are_passed_over(make_images, tmp_path, config):
    root = make_images(tmp_path / "broken", per_class=2)
    broken = (root / "ant" / "0.png", root / "bee" / "1.png")
    for path in broken:
        path.write_bytes(b"no image")
    source = open_source(ImagesConfig(root=str(root)))
    shown, measured, unreadable = choose_images(source, replace(config, num_images=6))
    assert sorted(measured) == [1, 2, 4, 5]
    assert set(shown) <= set(measured)
    assert sorted(unreadable) == sorted(map(str, broken))
    report = AttentionReport(config, source, shown, measured, [], unreadable)
    assert "2 images cannot be read, such as " in report.remarks[-1]
    for path in root.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(ConfigError, match=r"no image of .* can be read"):
        choose_images(source, config)


def test_images_by_name(image_source):
    assert find_images(image_source, ["bee/2.png", "ant/0.png"]) == [7, 0]


def test_a_file_name_is_enough_where_it_is_the_only_one(tmp_path, make_images):
    root = make_images(tmp_path / "images")
    (root / "cat" / "4.png").rename(root / "cat" / "other.png")
    source = open_source(ImagesConfig(root=str(root)))
    assert [source.key(i) for i in find_images(source, ["other.png"])] == [b"cat/other.png"]


def test_progress_ends_at_its_total(config):
    told = []
    compare_attention(config, lambda done, total: told.append((done, total)))
    assert told[0] == (0, 14)
    assert told[-1] == (14, 14)
    assert sorted(told) == told


def test_workers_change_nothing(config):
    one, other = (
        attention_numbers(compare_attention(replace(config, num_workers=n)))["models"]
        for n in (0, 2)
    )
    assert one == other


def test_labels(tmp_path):
    for name in ("a/run", "b/run", "b/other"):
        (tmp_path / name).mkdir(parents=True)
    folders = [str(tmp_path / name) for name in ("a/run", "b/run", "b/other")]
    assert label_models(["resnet18", *folders]) == ["resnet18", folders[0], folders[1], "other"]


def test_a_summary_leaves_out_what_is_not_there():
    assert summarize(np.array([np.nan])) == {"mean": None, "std": None, "n": 0}
    assert summarize(np.array([0.5])) == {"mean": 0.5, "std": None, "n": 1}


def test_the_figure_and_its_numbers(config, tmp_path):
    report = compare_attention(replace(config, target="cat"))
    figure = draw_attention(report)
    files = save_analysis(tmp_path, "attention", figure, attention_numbers(report))
    texts = [text.get_text() for text in figure.texts]
    for words in ("relu", "gelu", "Grad-CAM", "guided Grad-CAM", "image"):
        assert words in texts
    assert texts.count("Grad-CAM") == 2
    assert texts.count("guided Grad-CAM") == 1
    assert len(figure.axes) == 2 * (1 + 3 + 1)
    numbers = json.loads(files[2].read_text())
    for model, found in zip(report.models, numbers["models"], strict=True):
        assert found["area"]["n"] == int(np.isfinite(model.areas).sum())
        assert found["confidence"]["mean"] == pytest.approx(float(model.confidences.mean()))
        assert found["confidence"]["std"] == pytest.approx(float(model.confidences.std(ddof=1)))
        assert len(found["shown"][0]["map"]) == model.layer.grid.side
    assert len(numbers["images"]["measured"]) == 5


def test_names_are_text(config, models, tmp_path):
    for target in NAMES["gelu"][2:]:
        report = compare_attention(replace(config, models=[models["gelu"]], target=target))
        figure = draw_attention(report)
        save_analysis(tmp_path, "attention", figure, {})
        svg = (tmp_path / "attention.svg").read_text("utf-8")
        assert "<b>" not in svg
        said = [text.get_text() for text in figure.texts if text.get_text().startswith("map of")]
        assert all(text.endswith("%") and len(text) < 40 for text in said)
        assert said or all(shown.predicted == target for shown in report.models[0].shown)


def test_the_layer_of_a_single_column_ends_on_the_page(config):
    (model,) = [m for m in compare_attention(config).models if not m.has_guided]
    named = replace(model, layer=replace(model.layer, name="stages.3.blocks.2.norm1.norm"))
    report = compare_attention(replace(config, models=config.models[:1]))
    figure = draw_attention(replace(report, models=[named]))
    ends = [text.get_window_extent().x1 for text in figure.texts]
    assert max(ends) <= figure.bbox.width
