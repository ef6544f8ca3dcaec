"""torch.compile changes no name and no copy, and says before a run that it cannot work.

Backends of these tests run the graphs as they are, or fail; only one test needs a real compiler.
"""

import copy
import shutil

import pytest
import torch
from torch import nn

from fkd.errors import ConfigError, TeacherError
from fkd.models import compiling
from fkd.models.compiling import compile_network, explain_compiler_error, require_compiler
from fkd.models.preprocessing import Preprocessing
from fkd.models.single_teacher import Teacher

CPU = torch.device("cpu")
INPUT = Preprocessing(
    input_size=8, interpolation="bilinear", mean=(0.5,) * 3, std=(0.2,) * 3, crop_pct=1.0
)


@pytest.fixture
def graphs(monkeypatch) -> list[tuple[int, ...]]:
    """The shapes that graphs are compiled for; they run as they are."""
    shapes: list[tuple[int, ...]] = []

    def run_as_it_is(graph, inputs):
        shapes.extend(tuple(i.shape) for i in inputs if i.shape[1:] == (3, 8, 8))
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "BACKEND", run_as_it_is)
    return shapes


def fail(graph, inputs):
    raise RuntimeError("no compiler is installed")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))


def teacher() -> Teacher:
    return Teacher(network(), name="net", preprocessing=INPUT, class_names=list("abcde"))


def crops(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)


def test_names_and_copies_stay_as_they_are(graphs):
    plain, compiled = network(), network()
    compile_network(compiled)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(compiled(images), plain(images))
    assert graphs == [(2, 3, 8, 8)]
    copy.deepcopy(compiled)(torch.rand(3, 3, 8, 8))
    assert len(graphs) == 1  # the copy is not compiled


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.inner(images)


@pytest.mark.parametrize("kind", [network, Wrapped])
def test_networks_of_torch_and_of_users_are_compiled(kind, graphs):
    """An nn.Sequential has no code of its own."""
    compiled = kind()
    compile_network(compiled)
    compiled(torch.rand(2, 3, 8, 8))
    assert graphs == [(2, 3, 8, 8)]


def test_each_shape_is_compiled_once(graphs):
    compiled = network()
    compile_network(compiled)
    for count in (4, 2, 4, 3, 2, 4):
        compiled(torch.rand(count, 3, 8, 8))
    assert [shape[0] for shape in graphs] == [4, 2, 3]


def test_a_teacher_gives_the_same_compiled(graphs):
    plain, compiled = teacher(), teacher()
    compiled.compile(batch_size=4)
    assert len(graphs) == 1  # ahead of the first crops
    assert torch.equal(plain.logits(crops(4)), compiled.logits(crops(4)))
    assert len(graphs) == 1
    assert compiled.identity() == plain.identity()


def test_what_cannot_be_compiled_is_said(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "BACKEND", fail)
    with pytest.raises(ConfigError, match=r"cannot compile teacher net .*no compiler is installed"):
        teacher().compile(batch_size=2)


def test_errors_of_the_network_are_its_own(graphs):
    compiled = teacher()
    with torch.no_grad():
        compiled.model[3].bias.fill_(torch.nan)
    with pytest.raises(TeacherError, match="NaN"):
        compiled.compile(batch_size=2)
    assert explain_compiler_error(RuntimeError("another")) is None


def test_a_missing_compiler_is_said_before_a_run(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "BACKEND", fail)
    with pytest.raises(ConfigError, match=r"does not work here .*C\+\+ compiler.*leave out --comp"):
        require_compiler(CPU)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch 2.10
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_real_compiler_gives_the_same_but_for_rounding():
    torch._dynamo.reset()
    plain, compiled = teacher(), teacher()
    compiled.compile(batch_size=4)
    torch.testing.assert_close(compiled.logits(crops(4)), plain.logits(crops(4)))
