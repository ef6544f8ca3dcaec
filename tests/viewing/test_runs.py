"""Run folders as they are found: finished, killed, torn, of other verbs."""

import json
import os

import pytest

from fkd.engine import logging, run_folder
from fkd.errors import ConfigError
from fkd.viewing import runs
from fkd.viewing.runs import read_runs
from tests.viewing.folders import lines_of, training_line, write_run


def read(folder):
    (run,), left_out = read_runs([str(folder)])
    assert left_out == []
    return run


def test_files_have_the_names_that_training_gives_them():
    assert (runs.CONFIG, runs.ENVIRONMENT, runs.FINAL_WEIGHTS, runs.METRICS) == (
        run_folder._CONFIG,
        run_folder._ENVIRONMENT,
        run_folder.FINAL_WEIGHTS,
        logging.METRICS,
    )


def test_a_finished_run_is_read_without_notes(tmp_path):
    run = read(write_run(tmp_path / "a"))
    assert run.notes == []
    assert run.finished
    assert run.name == "a"
    assert run.settings["student.name"] == "resnet18"
    assert run.settings["crops.scale"] == [0.08, 1.0]
    assert run.environment["versions.torch"] == "2.15.0"
    assert run.curve("val_top1") == [(1.0, 20.0), (2.0, 50.0), (3.0, 40.0)]
    assert run.curve("train_top1") == []  # null in every line


def test_lists_of_teachers_become_numbered_settings(tmp_path):
    run = read(write_run(tmp_path / "a", teachers=[{"name": "x"}, {"name": "y"}]))
    assert run.settings["teachers.1.name"] == "y"


@pytest.mark.parametrize(
    ("damage", "note"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "last line is of epoch 3 of 8"),
        (lambda f: (f / "metrics.jsonl").unlink(), "metrics.jsonl is missing"),
        (lambda f: (f / "metrics.jsonl").write_text(""), "metrics.jsonl is empty"),
        (lambda f: (f / "metrics.jsonl").write_text('{"st'), "1 line of metrics.jsonl could not"),
        (lambda f: (f / "metrics.jsonl").write_text("[1]\n3\n{}\n"), "3 lines of metrics.jsonl"),
        (lambda f: (f / "metrics.jsonl").write_bytes(b"\xff\xfe\x00\n"), "1 line of metrics"),
        (lambda f: (f / "config.yaml").unlink(), "config.yaml is missing"),
        (lambda f: (f / "config.yaml").write_text("- 1\n"), "config.yaml is damaged"),
        (lambda f: (f / "config.yaml").write_text("a: [1"), "config.yaml is damaged"),
        (lambda f: (f / "config.yaml").write_bytes(b"\xff"), "config.yaml is damaged"),
        (lambda f: (f / "env.json").write_text("{"), "env.json is damaged"),
        (lambda f: (f / "env.json").unlink(), "env.json is missing"),
    ],
)
def test_what_is_missing_or_damaged_becomes_a_note(tmp_path, damage, note):
    folder = write_run(tmp_path / "a")
    damage(folder)
    run = read(folder)
    assert [each for each in run.notes if note in each], run.notes


def test_a_line_torn_by_a_kill_is_named_so(tmp_path):
    run = read(write_run(tmp_path / "a", finished=False, tail='{"step": 40, "epo'))
    assert len(run.lines) == 6
    assert any("a kill tears the line" in note for note in run.notes)


def test_numbers_that_are_not_finite_are_left_out_and_counted(tmp_path):
    huge = json.dumps({"step": 4, "epoch": 4.0, "loss": 10**400})
    lines = [training_line(1, 1.0, float("nan")), training_line(2, 2.0, 1.5)]
    run = read(write_run(tmp_path / "a", lines, tail=huge + "\n"))
    assert run.curve("loss") == [(2.0, 1.5)]
    assert any(note.startswith("2 numbers of metrics.jsonl") for note in run.notes)
    assert all("" not in line for line in run.lines)


def test_lines_of_another_verb_are_drawn_over_steps(tmp_path):
    lines = [{"step": 5, "box_ap": 0.2, "kind": "coco", "done": True}, {"step": 9, "box_ap": 0.3}]
    run = read(write_run(tmp_path / "a", lines))
    assert run.x_axis == "step"
    assert run.curve("box_ap") == [(5.0, 0.2), (9.0, 0.3)]
    assert run.curve("done") == []


def test_names_are_the_shortest_that_differ(tmp_path):
    folders = [write_run(tmp_path / part / "run") for part in ("a", "b")]
    assert [run.name for run in read_runs(map(str, folders))[0]] == ["a/run", "b/run"]
    assert len(read_runs([str(folders[0])] * 2)[0]) == 1


def test_aliases_that_stand_for_too_much_end_in_a_note(tmp_path):
    folder = write_run(tmp_path / "a")
    levels = [f"a{i}: &a{i} {{x: *a{i - 1}, y: *a{i - 1}}}" for i in range(1, 30)]
    (folder / "config.yaml").write_text("\n".join(["a0: &a0 {k: 1}", *levels]))
    assert any("more than 5,000 settings" in note for note in read(folder).notes)


def test_what_is_no_run_is_left_out_beside_one(tmp_path):
    """As `runs/*` finds it; a path that does not exist is a mistake."""
    run = write_run(tmp_path / "a")
    (tmp_path / "photos").mkdir()
    (tmp_path / "log.txt").write_text("")
    others = [str(tmp_path / name) for name in ("photos", "log.txt")]
    runs, left_out = read_runs([others[0], str(run), others[1]])
    assert [run.name for run in runs] == ["a"]
    assert left_out == [f"Left out, as they are no folders of runs: {', '.join(others)}."]
    for paths, said in (
        ([others[0]], "photos is not the folder of a run"),
        ([others[1]], "log.txt is not the folder of a run"),
        ([str(run), str(tmp_path / "nowhere")], "no such file"),
        ([], "none are given"),
    ):
        with pytest.raises(ConfigError, match=said):
            read_runs(paths)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_becomes_a_note(tmp_path):
    folder = write_run(tmp_path / "a")
    (folder / "metrics.jsonl").chmod(0)
    assert any("permission denied" in note for note in read(folder).notes)


def test_the_lines_of_the_fixture_are_those_of_training():
    """The names that training writes, as documented in `fkd.engine.logging`."""
    names = {name for line in lines_of() for name in line}
    assert names >= {"step", "epoch", "lr", "loss", "train_top1", "val_top1", "val_top5", "seconds"}
