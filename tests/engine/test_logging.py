"""metrics.jsonl: continued as if nothing had happened."""

import errno
import json
import threading
from contextlib import closing

import pytest
from tensorboard.compat.tensorflow_stub.io import gfile

from fkd.engine.logging import MetricsLog, read_metrics
from fkd.errors import RunError


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


def wait_for_writers():
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("tensorboard."):
            thread.join()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("at", ["first", "later"])
def test_an_error_of_tensorboards_thread_is_said_once(tmp_path, monkeypatch, number, at):
    """As the error of the run, and not as a traceback of the thread as well."""
    printed = []
    monkeypatch.setattr(threading, "excepthook", printed.append)

    def refuse(*args, **kwargs):
        raise OSError(number, "refused")

    def log_one_line(patch):
        names = ("_write", "append") if at == "first" else ("append",)  # the first line, the others
        for name in names:
            patch.setattr(gfile.LocalFileSystem, name, refuse)
        with closing(MetricsLog(tmp_path, 0)) as log:
            log.write({"step": 1, "loss": 1.0})

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RunError, match="tensorboard: ref"):
        log_one_line(patch)
    wait_for_writers()
    assert printed == []


def test_errors_of_other_threads_are_printed_as_before(tmp_path, monkeypatch):
    printed = []
    monkeypatch.setattr(threading, "excepthook", printed.append)
    write(tmp_path, 0, [1])
    write(tmp_path, 1, [2])
    thread = threading.Thread(target=lambda: (tmp_path / "missing").read_text())
    thread.start()
    thread.join()
    assert [args.exc_type for args in printed] == [FileNotFoundError]
