"""torch.compile for networks: in place, so that no name in a state dict changes.

A network is compiled once for each shape of its input: batches of a run have few of them, and a
graph for any shape would make the last bits of a run depend on which shape it saw first, hence on
where it was resumed. Copies of a compiled network, such as a moving average, are not compiled.
"""

import sys
from typing import Any

import torch
from torch import nn

from fkd.errors import ConfigError, reason_of

BACKEND = "inductor"
_COMPILERS = {
    "cpu": "a C++ compiler (g++ or clang++) and the headers of Python",
    "cuda": "triton, a C compiler (gcc) and the headers of Python",
}


def require_compiler(device: torch.device) -> None:
    """Compile one operation, which takes seconds, to know before a run that it works here.

    Raises:
        ConfigError: a compiler is missing, or torch.compile does not know this Python or device.
    """
    try:
        compiled = torch.compile(_operation, backend=BACKEND, dynamic=False)
        with torch.no_grad():
            compiled(torch.ones(8, device=device))
    except Exception as error:  # compilers, the linker, triton: each has errors of its own
        needed = _COMPILERS.get(device.type, "a compiler for this device")
        raise ConfigError(
            f"compile: torch.compile does not work here ({_reason(error)}); it needs {needed}: "
            "install them, or leave out --compile"
        ) from error


def compile_network(network: nn.Module, *, deterministic: bool = False) -> None:
    """Compile a network when it is called, for each shape of its input and each of its modes.

    Args:
        network: in place; its state dict, its copies and what is pickled stay as they are.
        deterministic: choose no kernel by measuring which one is faster, where torch can do so.
    """
    chosen = deterministic and BACKEND == "inductor" and _knows_deterministic()
    options: dict[str, Any] | None = {"deterministic": True} if chosen else None
    call: Any = network._call_impl

    def run(*inputs: Any, **named: Any) -> Any:
        return call(*inputs, **named)

    # As `network.compile` does, but torch 2.12 and older start no graph in a function of their own
    # and would compile nothing of an nn.Sequential.
    network._compiled_call_impl = torch.compile(
        run, backend=BACKEND, dynamic=False, options=options
    )


def explain_compiler_error(error: BaseException) -> str | None:
    """What torch.compile itself says is wrong; None where the error is another one.

    Errors of the network that it runs, and of the memory that this takes, are others.
    """
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is None or not isinstance(error, dynamo.exc.TorchDynamoException):
        return None
    return _reason(error)


def _reason(error: BaseException) -> str:
    """What a compiler says, without the words of torch around it."""
    return reason_of(getattr(error, "inner_exception", error))


def _operation(values: torch.Tensor) -> torch.Tensor:
    return values.sin() + 1


def _knows_deterministic() -> bool:
    """Whether kernels can be chosen without measuring, which not all versions of torch can."""
    import torch._inductor.config as inductor  # takes seconds

    return hasattr(inductor, "deterministic")
