"""Labels of a compiled teacher, by backends that run graphs as they are or fail."""

from dataclasses import replace

import pytest
import torch

from fkd.errors import ConfigError, StoreMismatch
from fkd.labeling.run import label
from fkd.models import compiling
from fkd.store import LabelStore


@pytest.fixture(autouse=True)
def as_it_is(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "BACKEND", "eager")


def test_a_compiled_teacher_is_part_of_the_identity(make_config, tmp_path, files_of):
    plain = make_config(tmp_path / "plain", codec="full", value_dtype="f32")
    compiled = replace(plain, out=str(tmp_path / "compiled"), compile=True)
    label(plain)
    label(compiled)
    a, b = (LabelStore.open(config.out) for config in (plain, compiled))
    assert b.config == a.config | {"numerics": a.config["numerics"] | {"compiled": "inductor"}}
    shards = [
        {name: data for name, data in files_of(config.out).items() if name.startswith("shards")}
        for config in (plain, compiled)
    ]
    assert len(shards[0]) == 4
    assert all(
        a.read([i]).label.values.tobytes() == b.read([i]).label.values.tobytes() for i in range(15)
    )
    for config in (replace(compiled, compile=False), replace(plain, compile=True)):
        with pytest.raises(StoreMismatch, match=r"numerics\.compiled"):
            label(config)


def test_all_threads_share_what_is_compiled(make_config, tmp_path, monkeypatch):
    shapes = []

    def count(graph, inputs):
        shapes.append(len(inputs))
        return graph.forward

    monkeypatch.setattr(compiling, "BACKEND", count)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        label(make_config(tmp_path / "s", compile=True))
    finally:
        torch.set_num_threads(threads)
    assert len(shapes) == 2  # the trial before the run, and the teacher for batches of one size


def test_a_compiler_that_fails_ends_the_run_before_it_writes(make_config, tmp_path, monkeypatch):
    def fail(graph, inputs):
        raise RuntimeError("no such file: g++")

    monkeypatch.setattr(compiling, "BACKEND", fail)
    with pytest.raises(ConfigError, match=r"no such file: g\+\+"):
        label(make_config(tmp_path / "s", compile=True))
    assert not (tmp_path / "s").exists()
