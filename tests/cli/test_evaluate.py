"""`fkd eval` on the command line: one model, several, sets by name, the table and its order."""

import json
import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from fkd.cli import main
from fkd.cli.arguments import Argument, join_positional, read_arguments
from fkd.cli.evaluate import sort_results
from fkd.evaluation.results import EvalResult
from fkd.models.lookup import find_model

NAMES = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def lab(make_images, tmp_path_factory):
    """Folders val and new of images, and run folders a and b of students of ant, bee and cat."""
    root = tmp_path_factory.mktemp("lab")
    make_images(root / "val", per_class=2)
    make_images(root / "new", ["ant", "elk"], per_class=2, seed=1)
    make_images(root / "elk", ["elk", "fox"], per_class=1)
    looks = {"input_size": [3, 32, 32], "interpolation": "bilinear", "crop_pct": 0.9}
    looks |= {"mean": [0.5] * 3, "std": [0.5] * 3, "label_names": list(NAMES)}
    card = {"architecture": "test_resnet", "num_classes": 3, "pretrained_cfg": looks}
    for seed, name in enumerate("ab"):
        (root / name).mkdir()
        torch.manual_seed(seed)
        state = timm.create_model("test_resnet", num_classes=3).state_dict()
        save_file(state, root / name / "model.safetensors")
        (root / name / "config.json").write_text(json.dumps(card))
    return root


@pytest.fixture
def run(lab, capsys, monkeypatch):
    monkeypatch.chdir(lab)

    def run_eval(*words) -> str:
        main(["eval", *map(str, words), "--device", "cpu", "--num_workers", "0"])
        return capsys.readouterr().out

    return run_eval


@pytest.fixture
def fails(run, capsys):
    def run_badly(*words) -> str:
        with pytest.raises(SystemExit) as caught:
            run(*words)
        assert caught.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    return run_badly


def rows_of(printed: str) -> list[list[str]]:
    """The cells of the table, without its head."""
    body = printed.partition("\u2500\n")[2] or printed.partition("\u2500 \n")[2]
    return [
        line.split() for line in body.partition("\nPercentages")[0].splitlines() if line.split()
    ]


def test_one_model_on_one_set_is_a_few_lines(run):
    printed = run("./a", "--images.root", "val")
    assert "model     ./a: test_resnet, 3 classes, 32 pixels, bilinear" in printed
    assert "images    6 in val" in printed
    assert re.search(r"^accuracy  top-1 \d+\.\d\d %, top-5 100\.00 %$", printed, re.MULTILINE)
    assert re.search(r"^classes   \d+\.\d\d % on average of 3, the lowest ", printed, re.MULTILINE)
    assert re.search(r"^ECE       \d+\.\d\d % \(.* 15 bins, norm l1\)$", printed, re.MULTILINE)


def test_a_teacher_is_compared_with(run):
    printed = run("./a", "--images", "val", "--teacher", "./a")
    assert "agreement 100.00 % (same top-1), KL(teacher || model) 0.0000 nats, over 3" in printed
    printed = run("./a", "--images", "new", "--images.format", "flat", "--teacher", "./b")
    assert "agreement" in printed
    assert "accuracy" not in printed


def test_several_models_and_sets_are_a_table_and_a_file(run, tmp_path):
    out = tmp_path / "results.json"
    words = ["./a", "--sets.val", "val", "./b", "--sets.new", "new", "--out", out]
    printed = run(*words)
    assert [row[:3] for row in rows_of(printed)] == [
        ["val", "./a", "6"],
        ["val", "./b", "6"],
        ["new", "./a", "2"],
        ["new", "./b", "2"],
    ]
    assert "left out  2 images of new for ./a: the model lacks their class" in printed
    assert "agree" not in printed.partition("\u2500")[0]
    assert "KL" not in printed
    assert f"results   {out}" in printed
    entries = json.loads(out.read_text())["results"]
    assert [(entry["model"], entry["set"]) for entry in entries] == [
        ("./a", "val"),
        ("./b", "val"),
        ("./a", "new"),
        ("./b", "new"),
    ]
    before = out.read_text()
    again = run(*words)
    assert rows_of(again) == rows_of(printed)
    assert "4 were there already" in again
    assert out.read_text() == before


def test_sets_in_a_file_of_settings_and_in_braces(run, tmp_path):
    settings = tmp_path / "eval.yaml"
    settings.write_text(
        "model: [./a, ./b]\nsets:\n  val: val\n  flat: {root: new, format: classes}\n"
    )
    printed = run("--config", settings, "--sort", "model,set")
    assert [row[:2] for row in rows_of(printed)] == [
        ["flat", "./a"],
        ["val", "./a"],
        ["flat", "./b"],
        ["val", "./b"],
    ]
    settings.write_text("model: ./a\nsets: {val: val}\n")
    assert "images    6 in val" in run("--config", settings)
    printed = run("./a", "./b", "--sets", "{x: val, y: {root: val, split: train}}")
    assert len(rows_of(printed)) == 4


def test_options_of_a_set_beside_its_path(run):
    words = ["--sets.x.split", "train", "--sets.x", "val", "--sets.y", "new"]
    printed = run("./a", *words, "--sets.x.format", "classes")
    assert [row[:3] for row in rows_of(printed)] == [["x", "./a", "6"], ["y", "./a", "2"]]


def test_sets_beside_images(run):
    printed = run("./a", "--images.root", "val", "--sets.new", "new")
    assert [row[0] for row in rows_of(printed)] == ["images", "new"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["./a"], "images.root: give the images to evaluate on"),
        (["./a", "./a", "--images", "val"], "model: ./a is given twice"),
        (["./a", "./c", "--images", "val"], "model: ./c does not exist; give the folder of a fin"),
        (["./a", "runs", "--images", "val"], "model: there is no folder runs here, and no netw"),
        (["./a", "./b", "--checkpoint", "a", "--images", "val"], "checkpoint: is of one model"),
        (["./a", "--sets.x", "nowhere"], "sets.x: images.root: nowhere does not exist"),
        (["./a", "--sets.x", "real:val"], "real: the 3 classes of ./a (such as ant) are not the"),
        (["./a", "--sets.x", "imagenet-a:val"], "imagenet-a: the 3 classes of ./a"),
        (["./a", "--sets.x", "{rot: val}"], "no setting 'rot'; did you mean root?"),
        (["./a", "--sets.x", "val", "--sets.x.splt", "v"], "'splt'; did you mean split?"),
        (["./a", "--sets.x.split", "v"], "sets.x: root is missing"),
        (
            ["./a", "--sets.x", "{root: val}", "--sets.x.split", "v"],
            "sets.x: give its options in b",
        ),
        (
            ["./a", "--sets.x=val", "--sets.x.label_column=null", "--sets.x.classes=by_number"],
            "sets.x: images.classes by_number: images.format flat, or label_column null, takes",
        ),
        (["./a", "--sets", "val"], "sets: "),
        (["./a", "--sets.x", "val", "--sets.y", "elk"], "./a on y: none of the classes of elk"),
        (["./a", "--images", "val", "--sort", "speed"], "sort: 'speed' is no column; use set, mod"),
        (["./a", "--images", "val", "--teacher.output", "head"], "teacher.name: give a model name"),
    ],
)
def test_mistakes_are_one_line(fails, words, message):
    assert message in fails(*words)


def test_a_teacher_of_features_is_refused(fails):
    words = ["./a", "--images", "val", "--teacher.name", "./a", "--teacher.output", "features"]
    assert "teacher.output: test_resnet gives features, which are no classes" in fails(*words)


def test_a_student_of_folders_called_by_numbers(run, make_images, tmp_path, capsys):
    """Trained by number it has a class for every number, and finds them by number and by name."""
    images = make_images(tmp_path / "images", ["10", "2", "9"], per_class=2)
    main(
        [
            *("train", "--method", "vanilla", "--images.root", str(images), "--epochs", "1"),
            *("--images.classes", "by_number", "--student.name", "test_resnet"),
            *("--student.input_size", "32", "--batch_size", "6", "--num_workers", "0"),
            *("--device", "cpu", "--out", str(tmp_path / "run")),
        ]
    )
    capsys.readouterr()
    assert find_model(str(tmp_path / "run")).class_names == [str(i) for i in range(11)]
    sets = [f"--sets.{way}={{root: {images}, classes: {way}}}" for way in ("by_name", "by_number")]
    run(tmp_path / "run", *sets, "--out", tmp_path / "results.json")
    by_name, by_number = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [c["name"] for c in by_name["classes"]] == ["2", "9", "10"]
    assert by_name["classes"] == by_number["classes"]
    assert by_name["calibration_error"] == by_number["calibration_error"]


def result(model, of_set, top1, ece=None) -> EvalResult:
    values = dict.fromkeys(EvalResult.__dataclass_fields__)
    return EvalResult(
        **values | {"model": model, "set": of_set, "top1": top1, "calibration_error": ece}
    )


@pytest.mark.parametrize(
    ("columns", "reverse", "expected"),
    [
        ([], False, "1234"),
        (["top1"], False, "2413"),
        (["top1"], True, "1423"),
        (["ece"], False, "3412"),
        (["set"], False, "1324"),
        (["set", "top1"], False, "1324"),
        (["set", "ece"], False, "3142"),
        (["model"], False, "3412"),
    ],
)
def test_the_best_comes_first_and_what_is_unknown_last(columns, reverse, expected):
    results = [
        result("b", "one", 50.0, 2.0),
        result("b", "two", 70.0),
        result("a", "one", None, 1.0),
        result("a", "two", 60.0, 1.5),
    ]
    number = {id(of_one): str(i + 1) for i, of_one in enumerate(results)}
    assert "".join(number[id(r)] for r in sort_results(results, columns, reverse)) == expected


def test_models_may_stand_anywhere_among_the_options():
    words = ["a", "--device", "cpu", "b c", "--redo", "d"]
    joined = join_positional("eval", read_arguments("eval", words))
    assert joined[-1] == Argument("", '["a", "b c", "d"]')
    assert [argument.option for argument in joined] == ["--device", "--redo", ""]
    (only,) = join_positional("eval", read_arguments("eval", ["a"]))
    assert only == Argument("", '["a"]')
    two = join_positional("inspect", read_arguments("inspect", ["a", "b"]))
    assert [argument.value for argument in two] == ["a", "b"]


def test_the_help_explains_sets_and_columns(capsys):
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    page = capsys.readouterr().out
    for text in ("--sets.NAME", "real:PATH", "imagenet-a:PATH", "--sort set,top1", "15 bins, norm"):
        assert text in page
