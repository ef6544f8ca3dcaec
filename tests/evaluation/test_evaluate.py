"""Several models on several sets: side by side, once each, and everything checked beforehand."""

import json

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

from fkd.data.sources import ImagesConfig
from fkd.errors import ConfigError, RunError
from fkd.evaluation import evaluate as module
from fkd.evaluation.evaluate import EvalConfig, EvalProgress, evaluate
from fkd.evaluation.passes import run_pass
from fkd.evaluation.reference import Reference
from fkd.models.single_teacher import Teacher
from fkd.models.teacher import TeacherConfig
from tests.evaluation.fixed import FixedModel, fixed_model, look, one_hot, write_shades

NAMES = ("ant", "bee", "cat")


class Told(EvalProgress):
    """Remembers what it is told."""

    def __init__(self):
        self.remarks, self.begun, self.count = [], [], 0

    def remark(self, text):
        self.remarks.append(text)

    def begin(self, what, total):
        self.begun.append((what, total))

    def advance(self, count):
        self.count += count


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Two sets, and models "good" (always right on the first), "half" and "never"."""
    write_shades(tmp_path / "first", [f"{name}/{i}.png" for name in NAMES for i in (0, 1)])
    write_shades(tmp_path / "second", [f"{name}/0.png" for name in (*NAMES, "elk")])
    said = {"good": [0, 0, 1, 1, 2, 2], "half": [0, 1, 1, 2, 2, 0], "never": [1, 1, 2, 2, 0, 0]}

    def find(model, checkpoint=None, *, input_size=None):
        return fixed_model(one_hot(said[model], 3), NAMES, input_size or 8)

    def load(config, device):
        logits = one_hot(said[config.name], 3, height=1.0)
        names = NAMES
        return Reference(
            Teacher(FixedModel(logits), name=config.name, preprocessing=look(), class_names=names)
        )

    monkeypatch.setattr(module, "find_model", find)
    monkeypatch.setattr(module, "load_reference", load)

    def build(model, **options):
        own = {"sets": {"one": str(tmp_path / "first"), "two": str(tmp_path / "second")}}
        own |= {"out": str(tmp_path / "results.json"), "device": "cpu", "num_workers": 0}
        return EvalConfig(model, **(own | options))

    return build


def test_models_and_sets_side_by_side(lab, tmp_path):
    told = Told()
    results = evaluate(lab(["good", "half"]), told)
    assert [(r.set, r.model) for r in results] == [
        ("one", "good"),
        ("one", "half"),
        ("two", "good"),
        ("two", "half"),
    ]
    # shades of the second set are 0 to 3: the models say 0, 0, 1 and 0, 1, 1 of its known images
    assert [r.top1 for r in results] == pytest.approx([100.0, 50.0, 100 / 3, 200 / 3])
    assert [r.num_left_out for r in results] == [0, 0, 1, 1]
    assert [r.reason for r in results] == ["", "", *["the model lacks their class"] * 2]
    assert told.begun == [(f"{r.model} on {r.set}", r.num_images) for r in results]
    assert told.count == 6 + 6 + 3 + 3
    half = {c.name: (c.num_images, c.top1) for c in results[1].classes}
    assert half == {"ant": (2, 50.0), "bee": (2, 50.0), "cat": (2, 50.0)}
    assert results[2].mean_class_top1 == pytest.approx(100 / 3)
    confidence = np.exp(4) / (np.exp(4) + 2)
    assert results[0].calibration_error == pytest.approx(100 * (1 - confidence), abs=1e-3)
    assert results[1].calibration_error == pytest.approx(100 * (confidence - 0.5), abs=1e-3)
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["calibration"] == {"bins": 15, "norm": "l1"}
    assert [entry["top1"] for entry in document["results"]] == [r.top1 for r in results]
    ant = {"name": "ant", "num_images": 2, "top1": 50.0, "average_precision": None}
    assert document["results"][1]["classes"][0] == ant


def test_agreement_with_a_teacher(lab):
    config = lab(["good", "half"], teacher=TeacherConfig("half"))
    good, half, *_ = evaluate(config)
    assert (good.teacher, good.agreement, half.agreement) == ("half", 50.0, 100.0)
    p = np.exp([1.0, 0, 0]) / np.exp([1.0, 0, 0]).sum()
    right = np.exp([4.0, 0, 0]) / np.exp([4.0, 0, 0]).sum()
    wrong = np.roll(right, 1)
    same, other = (float((p * np.log(p / q)).sum()) for q in (right, wrong))
    assert half.divergence == pytest.approx(same, rel=1e-5)
    assert good.divergence == pytest.approx((same + other) / 2, rel=1e-5)


def test_teachers_of_one_network_have_results_of_their_own(tmp_path):
    write_shades(tmp_path / "photos", [f"{name}/0.png" for name in ("ant", "bee")])
    (tmp_path / "names.txt").write_text("ant\nbee\n")
    weights = [str(tmp_path / f"{name}.safetensors") for name in ("first", "second")]
    for file in weights:
        network = timm.create_model("test_resnet", num_classes=2)
        save_file(network.state_dict(), file)
    names, out = str(tmp_path / "names.txt"), tmp_path / "results.json"
    for file in weights:
        (result,) = evaluate(
            EvalConfig(
                "test_resnet",
                checkpoint=weights[0],
                class_names=names,
                sets={"val": str(tmp_path / "photos")},
                teacher=TeacherConfig("test_resnet", checkpoint=file, class_names=names),
                out=str(out),
                device="cpu",
            )
        )
        assert result.teacher == f"test_resnet {file}"
    found = json.loads(out.read_text())["results"]
    assert [entry["teacher"] for entry in found] == [f"test_resnet {file}" for file in weights]


def test_the_same_command_computes_nothing_again(lab):
    first = evaluate(lab(["good", "half"]))
    told = Told()
    assert evaluate(lab(["good", "half"]), told) == first
    assert told.begun == []
    evaluate(lab(["good", "half"], redo=True), told)
    assert len(told.begun) == 4


def test_after_a_stop_only_the_rest_is_computed(lab, monkeypatch):
    """Every pair is in the file as soon as it is finished."""
    calls = []

    def stop(one, **options):
        calls.append(one)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run_pass(one, **options)

    monkeypatch.setattr(module, "run_pass", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(lab(["good", "half"]))
    told = Told()
    evaluate(lab(["good", "half"]), told)
    assert [what for what, _ in told.begun] == ["good on two", "half on two"]


def test_results_of_other_models_stay_in_the_file(lab, tmp_path):
    evaluate(lab("good"))
    told = Told()
    evaluate(lab(["half", "good"]), told)
    assert [what for what, _ in told.begun] == ["half on one", "half on two"]
    document = json.loads((tmp_path / "results.json").read_text())
    assert {(r["model"], r["set"]) for r in document["results"]} == {
        (model, of_set) for model in ("good", "half") for of_set in ("one", "two")
    }


def change_image(root):
    Image.new("RGB", (9, 9), (7, 7, 7)).save(root / "first/bee/0.png")


def rename_class(root):
    (root / "first/bee").rename(root / "first/cat/bee")
    (root / "first/elk").mkdir()
    (root / "first/cat/bee/0.png").rename(root / "first/elk/0.png")


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({"input_size": 4}, None),
        ({"teacher": TeacherConfig("half")}, None),
        ({}, change_image),
        ({}, rename_class),
    ],
)
def test_what_has_changed_is_computed_again(lab, tmp_path, options, change):
    evaluate(lab("good", sets={"one": str(tmp_path / "first")}))
    if change is not None:
        change(tmp_path)
    told = Told()
    evaluate(lab("good", sets={"one": str(tmp_path / "first")}, **options), told)
    assert len(told.begun) == 1


def test_other_weights_are_computed_again(lab, monkeypatch):
    evaluate(lab("good"))
    found = module.find_model("half")
    monkeypatch.setattr(module, "find_model", lambda *_, **__: found)
    told = Told()
    results = evaluate(lab("good"), told)
    assert len(told.begun) == 2
    assert results[0].top1 == 50.0


def test_another_name_for_the_same_is_not_computed_again(lab, tmp_path):
    evaluate(lab("good", sets={"one": str(tmp_path / "first")}))
    told = Told()
    (result,) = evaluate(lab("good", sets={"eins": str(tmp_path / "first")}), told)
    assert (told.begun, result.set, result.top1) == ([], "eins", 100.0)
    document = json.loads((tmp_path / "results.json").read_text())
    assert [entry["set"] for entry in document["results"]] == ["one", "eins"]


def test_without_a_file_nothing_is_kept(lab, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    evaluate(lab("good", out=None))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no results"),
        ("{", "holds no results"),
        ("[]", "holds no results"),
        ('{"format": "coco"}', "its format is 'coco'"),
        ('{"format": "fkd results 1"}', "holds no results"),
        ('{"format": "fkd results 1", "results": [{"model": "x"}]}', "holds no results"),
        ('{"format": "fkd results 1", "results": [3]}', "holds no results"),
        ("\x00\xff", "holds no results"),
    ],
)
def test_another_file_is_not_overwritten(lab, tmp_path, text, reason):
    file = tmp_path / "results.json"
    file.write_bytes(text.encode("latin-1"))
    for redo in (False, True):
        with pytest.raises(ConfigError, match=f"is there already and .*{reason}"):
            evaluate(lab("good", redo=redo))
    assert file.read_bytes() == text.encode("latin-1")


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_computed(lab, tmp_path):
    (tmp_path / "file").write_text("x")
    told = Told()
    with pytest.raises((ConfigError, RunError), match="out: "):
        evaluate(lab("good", out=str(tmp_path / "file/results.json")), told)
    with pytest.raises(ConfigError, match="is no file; give one"):
        evaluate(lab("good", out=str(tmp_path / "first")), told)
    assert told.begun == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": []}, "model: give the folder of a finished run"),
        ({"model": ["a", ""]}, "model: give the folder"),
        ({"model": ["a", "b", "a"]}, "model: a is given twice"),
        ({"model": ["a", "b"], "checkpoint": "w"}, "checkpoint: is of one model, and 2 are given"),
        ({"model": ["a", "b"], "class_names": "w"}, "class_names: is of one model"),
        ({"sets": {}}, r"images\.root: give the images .* --sets\.val photos/val"),
        ({"sets": {"x": 3}}, r"sets\.x: 3 is no set"),
        ({"sets": {3: "x"}}, "sets: give sets by their names"),
        ({"sets": ["x"]}, "sets: give sets by their names"),
        ({"sets": {"images": "x"}, "images": ImagesConfig(root="y")}, r"sets\.images: .* already"),
        ({"input_size": 0}, "input_size must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_settings_that_cannot_work(options, message):
    settings = {"model": "a", "sets": {"x": "y"}} | options
    with pytest.raises(ConfigError, match=message):
        EvalConfig(settings.pop("model"), **settings)


def test_every_set_and_model_is_checked_before_the_first_pass(lab, tmp_path):
    told = Told()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"sets\.bad: images\.root: no image files"):
        evaluate(lab("good", sets={"one": str(tmp_path / "first"), "bad": str(tmp_path / "empty")}))
    write_shades(tmp_path / "other", ["elk/0.png"])
    with pytest.raises(ConfigError, match="none of the classes of"):
        evaluate(
            lab("good", sets={"one": str(tmp_path / "first"), "bad": str(tmp_path / "other")}), told
        )
    assert told.begun == []
    assert not (tmp_path / "results.json").exists()


def test_parquet_files_by_name_and_by_number(lab, tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    files = [(tmp_path / f"first/{name}/{i}.png").read_bytes() for name in NAMES for i in (0, 1)]
    images = [{"bytes": data, "path": None} for data in files]
    for name, labels in (("text", [n for n in NAMES for _ in "ab"]), ("ids", [0, 0, 1, 1, 2, 2])):
        (tmp_path / name).mkdir()
        table = pa.table({"image": images, "label": labels})
        parquet.write_table(table, tmp_path / name / "data.parquet")
    sets = {
        "text": str(tmp_path / "text"),
        "ids": {"root": str(tmp_path / "ids"), "classes": "by_number"},
    }
    results = evaluate(lab(["good", "half"], sets=sets))
    assert [r.top1 for r in results] == [100.0, 50.0, 100.0, 50.0]
    with pytest.raises(ConfigError, match=r"ids of the model's classes, set images\.classes by_n"):
        evaluate(lab("good", sets={"ids": str(tmp_path / "ids")}))


def test_images_without_classes_and_a_teacher(lab, tmp_path):
    write_shades(tmp_path / "flat", [f"{i}.png" for i in range(6)])
    sets = {"flat": str(tmp_path / "flat")}
    (result,) = evaluate(lab("half", sets=sets, teacher=TeacherConfig("good")))
    assert (result.top1, result.calibration_error, result.classes) == (None, None, [])
    assert result.agreement == 50.0
    with pytest.raises(ConfigError, match="has no classes"):
        evaluate(lab("half", sets=sets))
