"""The words of a command line: spelling, order, short forms; nothing slow is imported for it."""

import pytest
import yaml

from fkd.cli import main
from fkd.cli.arguments import Argument, nearest, options_of, read_arguments
from fkd.cli.verbs import VERBS

MANY = [
    ("label", "num_crops", "3"),
    ("label", "crops.seed", "7"),
    ("label", "teacher.weight", "2.0"),
    ("plan", "teacher_augment.blur_prob", "0.5"),
    ("label-maps", "images.split", "test"),
    ("import-labels", "value_dtype", "f16"),
    ("merge", "out", "elsewhere"),
    ("train", "optimizer.lr", "0.3"),
    ("train", "method", "vanilla"),
    ("probe", "batch_size", "64"),
    ("transfer", "detector.min_size", "400"),
    ("eval", "batch_size", "4"),
    ("export", "latency.runs", "3"),
    ("inspect", "num_samples", "3"),
    ("verify", "spot_checks", "3"),
    ("convert", "form", "plain"),
    ("push", "transfers", "3"),
    ("pull", "transfers", "3"),
    ("view", "page.num_images", "3"),
    ("analyze storage", "num_crops", "3"),
    ("analyze distance", "sample.seed", "3"),
    ("analyze labels", "num_examples", "3"),
    ("report", "out", "elsewhere"),
    ("analyze attention", "num_images", "3"),
    ("analyze teachers", "num_images", "3"),
    ("analyze coverage", "schedule.warmup_epochs", "3"),
    ("analyze duplicates", "max_pairs", "3"),
    ("analyze time", "repeats", "3"),
    ("demo", "out", "elsewhere"),
]
NEEDED = {
    "images": {"root": "."},
    "val": {"root": "."},
    "out": "written",
    "teacher": {"name": "resnet18"},
    "student": {"name": "resnet18"},
    "maps": ".",
    "store": ".",
}
OF_TRANSFER = {"val": None, "from_scratch": True}


def nested(name: str, value: object) -> dict:
    """{"a": {"b": value}} of "a.b"."""
    first, dot, rest = name.partition(".")
    return {first: nested(rest, value) if dot else value}


def settings_of(verb: str) -> dict:
    """Settings that the verb needs and knows."""
    names = {name.lstrip("-").partition(".")[0] for name in options_of(verb).names}
    return {name: value for name, value in NEEDED.items() if name in names} | (
        {"train": {"maps": None}, "transfer": OF_TRANSFER}.get(verb, {})
    )


def at(settings: dict, name: str) -> object:
    for part in name.split("."):
        settings = settings[part]
    return settings


@pytest.mark.parametrize(("verb", "option", "value"), MANY)
@pytest.mark.parametrize("place", ["before", "after", "joined"])
def test_the_command_line_wins_over_a_file(verb, option, value, place, tmp_path, capsys):
    other = {"form": "compact", "value_dtype": "f32", "method": "fkd"}.get(option)
    other = other or {"out": "x", "images.split": "val"}.get(option, 1)
    settings = settings_of(verb)
    group, _, _ = option.partition(".")
    inside = nested(option, other)[group]
    settings[group] = {**settings.get(group, {}), **inside} if isinstance(inside, dict) else inside
    config = tmp_path / "settings.yaml"
    config.write_text(yaml.safe_dump(settings))
    from_file = ["--config", str(config)]
    own = {
        "before": [f"--{option}", value, *from_file],
        "after": [*from_file, f"--{option}", value],
        "joined": [f"--{option}={value}", f"--config={config}"],
    }[place]
    positional = [str(tmp_path)] * len(options_of(verb).positional)
    with pytest.raises(SystemExit) as stop:
        main([verb, *positional, *own, "--print_config"])
    printed = capsys.readouterr()
    assert not stop.value.code, printed.err
    assert at(yaml.safe_load(printed.out), option) == yaml.safe_load(value)


def test_every_verb_is_tried():
    assert {verb for verb, _, _ in MANY} == set(VERBS)


def test_a_single_option_wins_over_a_file_of_its_group(tmp_path, capsys):
    (tmp_path / "images.yaml").write_text("root: nowhere\nsplit: val\n")
    words = ["--images.root", str(tmp_path), "--images", str(tmp_path / "images.yaml")]
    with pytest.raises(SystemExit):
        main(["label", *words, "--out", "x", "--teacher", "resnet18", "--print_config"])
    images = yaml.safe_load(capsys.readouterr().out)["images"]
    assert (images["root"], images["split"]) == (str(tmp_path), "val")


@pytest.mark.parametrize(
    ("verb", "short", "full"),
    [
        ("label", "--teacher=runs/teacher", "--teacher.name=runs/teacher"),
        ("label", "--images=photos", "--images.root=photos"),
        ("train", "--student=resnet18", "--student.name=resnet18"),
        ("train", "--val=photos/val", "--val.root=photos/val"),
        ("verify", "--images=photos", "--images.root=photos"),
        ("view", "--images=photos", "--images.root=photos"),
        ("view", "--page=2", "--page.number=2"),
        ("label", "--teacher_augment=s2bnn", "--teacher_augment.preset=s2bnn"),
        ("label", "--teacher=teacher.yaml", "--teacher=teacher.yaml"),
        ("label", "--teacher={name: a}", "--teacher={name: a}"),
        ("train", "--val=null", "--val=null"),
        ("verify", "--repair", "--repair=true"),
        ("verify", "--repair=false", "--repair=false"),
    ],
)
def test_short_forms(verb, short, full):
    for words in ([short], short.split("=", 1)):
        assert [argument.words for argument in read_arguments(verb, words)] == [full]


def test_a_switch_does_not_take_a_folder():
    first, second = read_arguments("verify", ["--repair", "labels"])
    assert {first, second} == {Argument("--repair", "true"), Argument("", "labels")}


def test_a_negative_number_is_a_value():
    assert read_arguments("train", ["--seed", "-1"]) == [Argument("--seed", "-1")]


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["label", "--num-crops", "3"], "--num_crops"),
        (["label", "--root", "x"], "--images.root"),
        (["train", "--epoch", "3"], "--epochs"),
        (["train", "--optimizer.learning", "3"], "--optimizer.lr"),
        (["inspect", ".", "--json"], "--json_output"),
        (["lable"], "label"),
        (["inspekt", "x"], "inspect"),
    ],
)
def test_a_mistyped_word_suggests_the_nearest(words, meant, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert len(error) < 200
    assert f"did you mean {meant}?" in error or meant == "--optimizer.lr"


def test_a_word_for_a_group_that_may_be_null_names_its_settings(tmp_path, capsys):
    folder = str(tmp_path)
    given = ["--store", folder, "--images.root", folder, "--student.name", "resnet18"]
    with pytest.raises(SystemExit):
        main(["train", "--maps", folder, *given, "--out", str(tmp_path / "run")])
    assert "maps: give its settings, --maps.NAME VALUE (see --maps.help)" in capsys.readouterr().err


def test_a_mistyped_setting_in_a_file_suggests_the_nearest(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(f"images: {{root: {tmp_path}}}\nout: x\nnum_crop: 3\n")
    with pytest.raises(SystemExit):
        main(["label", "--config", str(tmp_path / "c.yaml")])
    assert "did you mean num_crops?" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "demo"])
def test_what_is_missing_is_named_with_an_example(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"fkd: error: {verb} needs " in error
    assert VERBS[verb].example in error


def test_nothing_is_near_to_everything():
    assert nearest("zzz", ["label", "train"]) is None
