"""metrics.jsonl: continued as if nothing had happened."""

import json

from fkd.engine.logging import MetricsLog, read_metrics


def write(folder, step, lines):
    log = MetricsLog(folder, step)
    for number in lines:
        log.write({"step": number, "loss": number / 10, "train_top1": None})
    log.sync()
    log.close()


def steps(folder):
    return [line["step"] for line in read_metrics(folder / "metrics.jsonl")]


def test_lines_after_the_checkpoint_are_dropped(tmp_path):
    write(tmp_path, 0, [1, 2, 3, 4])
    write(tmp_path, 2, [3, 4, 5])
    assert steps(tmp_path) == [1, 2, 3, 4, 5]


def test_a_new_run_starts_an_empty_log(tmp_path):
    write(tmp_path, 0, [1, 2])
    write(tmp_path, 0, [1])
    assert steps(tmp_path) == [1]


def test_a_line_torn_by_a_kill_is_dropped(tmp_path):
    write(tmp_path, 0, [1, 2])
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-5])
    assert steps(tmp_path) == [1]
    write(tmp_path, 1, [2, 3])
    assert steps(tmp_path) == [1, 2, 3]


def test_lines_are_plain_json_and_tensorboard_gets_the_same_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, 0, [1, 2])
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert first == {"step": 1, "loss": 0.1, "train_top1": None}
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, round(e.value, 3)) for e in events.Scalars("loss")] == [(1, 0.1), (2, 0.2)]


def test_a_run_without_lines_has_none(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []
