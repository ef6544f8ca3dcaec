"""A compiled student: by a backend that runs graphs as they are, the same run as without."""

from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file

from fkd.errors import ConfigError, RunError
from fkd.models import compiling
from fkd.models.teacher import TeacherConfig
from fkd.training.run import train
from tests.training.processes import Stop, StopAt


@pytest.fixture
def config(plain_run):
    return replace(
        plain_run,
        val=plain_run.images,
        ema_decay=0.9,
        student=replace(plain_run.student, name="test_resnet"),
    )


@pytest.fixture
def graphs(monkeypatch) -> list[int]:
    """Sizes of the batches that graphs are compiled for."""
    sizes: list[int] = []

    def run_as_it_is(graph, inputs):
        images = [
            tensor for tensor in inputs if tensor.ndim == 4 and tensor.shape[1:] == (3, 32, 32)
        ]
        sizes.extend(len(tensor) for tensor in images)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "BACKEND", run_as_it_is)
    return sizes


def test_the_run_is_the_same_also_after_a_stop(config, graphs, tmp_path, require_same_outcome):
    compiled = replace(config, out=str(tmp_path / "compiled"), compile=True)
    train(config)
    assert graphs == []
    with pytest.raises(Stop):
        train(compiled, StopAt(3))
    train(compiled)
    assert set(graphs) == {8, 7}  # the last batch of a pass is smaller
    require_same_outcome(compiled, config)
    with pytest.raises(RunError, match="compile was True, now False"):
        train(replace(compiled, compile=False))


def test_an_online_teacher_is_compiled_too(config, graphs, tmp_path):
    weights = timm.create_model("test_resnet", num_classes=3).state_dict()
    save_file(weights, tmp_path / "teacher.safetensors")
    teacher = TeacherConfig(
        "test_resnet", checkpoint=str(tmp_path / "teacher.safetensors"), input_size=32
    )
    online = replace(
        config,
        method="kd",
        teacher=teacher,
        out=str(tmp_path / "kd"),
        val=None,
        epochs=1,
        compile=True,
    )
    train(online)
    assert sorted(graphs) == [7, 7, 8, 8]


def test_a_compiler_that_is_missing_is_told_before_the_run(config, monkeypatch):
    def fail(graph, inputs):
        raise RuntimeError("no such file: g++")

    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "BACKEND", fail)
    with pytest.raises(ConfigError, match=r"no such file: g\+\+"):
        train(replace(config, compile=True))


def test_a_network_that_cannot_be_compiled_ends_the_run(config, monkeypatch):
    def fail_on_images(graph, inputs):
        if any(tensor.ndim == 4 for tensor in inputs):
            raise RuntimeError("unknown operator")
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "BACKEND", fail_on_images)
    with pytest.raises(RunError, match=r"cannot compile .*unknown operator"):
        train(replace(config, compile=True))
