"""The options of every verb are frozen: adding, renaming or removing one is a decision.

After such a decision write them anew, and tell of it in the changelog:

    PYTHONPATH=src python tests/cli/test_options.py > options && mv options src/fkd/cli/options.txt
"""

from dataclasses import fields
from importlib.resources import files

import pytest
import yaml

from fkd.cli import main
from fkd.cli.parser import list_options
from fkd.cli.verbs import VERBS
from fkd.data.sources import ImagesConfig
from fkd.models.teacher import TeacherConfig

_SNAPSHOT = files("fkd.cli").joinpath("options.txt")
_OPTIONAL_GROUPS = {
    "images": ImagesConfig,
    "val": ImagesConfig,
    "teacher": TeacherConfig,
    "axes_teacher": TeacherConfig,
}


def options_of_all_verbs() -> str:
    """One option per line, after its verb."""
    lines = []
    for verb in VERBS:
        for option in list_options(verb):
            lines.append(f"{verb} {option}\n")
            group = option.removeprefix("--").removesuffix(".help")
            if option.endswith(".help") and group in _OPTIONAL_GROUPS:
                for field in fields(_OPTIONAL_GROUPS[group]):
                    kind = " switch" if field.type is bool else ""
                    lines.append(f"{verb} --{group}.{field.name}{kind}\n")
    return "".join(lines)


def test_the_options_are_frozen():
    assert options_of_all_verbs() == _SNAPSHOT.read_text(encoding="utf-8"), __doc__


@pytest.mark.parametrize("verb", VERBS)
def test_the_first_options_of_a_help_page_exist(verb):
    """Options of an optional teacher are listed by --teacher.help, so their first part counts."""
    known = {line.split()[0].lstrip("-") for line in list_options(verb)}
    for option in VERBS[verb].options:
        assert option in known or option.partition(".")[0] in known
    assert VERBS[verb].example.startswith(f"fkd {verb}")


@pytest.mark.parametrize("verb", VERBS)
def test_help_begins_with_a_short_usage_and_an_example(verb, capsys):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: fkd {verb} ")
    assert lines[1] == ""
    assert f"  {VERBS[verb].example}" in lines[:20]
    assert "options:" in lines


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "demo"])
@pytest.mark.parametrize("wrong", [["--colour", "red"], ["--config", "/nowhere.yaml"], []])
def test_wrong_options_are_one_line(verb, wrong, capsys):
    with pytest.raises(SystemExit) as caught:
        main([verb, *wrong])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("fkd: error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--codec", "best"], "codec: codec 'best' is unknown; use full, hard"),
        (["--num_crops", "many"], "num_crops: Expected a int. Got value: many"),
        (["--batch_size", "many"], "batch_size: Expected a int. Got value: many"),
        (["--form", "small"], "form: Expected a Literal['plain', 'compact']. Got value: small"),
        (["--crops.scale", "[0.5, 0.1]"], "crops.scale must satisfy 0 < min <= max <= 1"),
        (["--crops.flip_prob", "2"], "crops.flip_prob must lie in [0, 1], got 2.0"),
        (["--teacher.weight", "heavy"], "teacher.weight: Expected a float. Got value: heavy"),
        (["--num_crops", "0"], "num_crops must be at least 1"),
    ],
)
def test_a_wrong_value_is_named_with_its_option(options, message, capsys):
    with pytest.raises(SystemExit):
        main(["label", "--images.root", ".", "--out", "x", "--teacher.name", "t", *options])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("codec", ["ms:7", "mr:2", "full", "hard", "smoothing", "logits:3"])
def test_a_printed_configuration_is_read_back(codec, tmp_path, capsys):
    options = ["--images.root", ".", "--out", "x", "--teacher.name", "t", "--codec", codec]
    printed = []
    for more in ([], ["--config", str(tmp_path / "printed.yaml")]):
        with pytest.raises(SystemExit):
            main(["label", *(more or options), "--print_config"])
        printed.append(capsys.readouterr().out)
        (tmp_path / "printed.yaml").write_text(printed[-1])
    assert yaml.safe_load(printed[0])["codec"] == codec
    assert printed[0] == printed[1]


if __name__ == "__main__":
    print(options_of_all_verbs(), end="")
