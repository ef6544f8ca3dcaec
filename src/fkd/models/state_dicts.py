"""Where training scripts put weights, and what they write before their names; all of it undone.

    {"epoch": 3, "model_ema": {"module": {"n_averaged": 7, "module.backbone.conv1.weight": ...}}}

Weights may lie beside other things and in each other, at any depth; an average goes before the
weights that it is of. Wrappers add a prefix to all names, in any nesting.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from fkd.errors import ConfigError

_AVERAGED = (
    *("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema", "module_ema"),
    *("swa_state_dict", "swa_model", "averaged_model", "model_averaged", "avg_model"),
)
_RAW = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "net_state_dict"),
    *("network", "module", "weights", "params", "state", "student", "backbone", "classifier"),
)
_NESTED = (*_AVERAGED, *_RAW)

PREFIXES = (
    *("module.", "_orig_mod."),  # DistributedDataParallel, torch.compile
    *("model.", "net.", "network.", "backbone.", "encoder.", "timm_model.", "student.", "teacher."),
    *("ema_model.", "ema.", "averaged_model.", "_forward_module."),
)
_COUNTERS = frozenset({"n_averaged", "initted", "step", "num_updates", "decay"})
_DEPTH = 6


def unwrap(document: Any, owner: str) -> dict[str, Tensor]:
    """The weights in what a file holds, under the names of the network itself.

    Args:
        document: what was read.
        owner: names the file, for messages.

    Raises:
        ConfigError: there are no weights, or several and nothing says which.
    """
    state = _find(document, _DEPTH)
    if state is None:
        raise ConfigError(f"{owner} holds {_describe(document)}; save a model's state_dict")
    return strip_prefixes(state)


def strip_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state without the prefixes that all its names have, and without counters of averages."""
    stripped = dict(state)
    while True:
        stripped = {name: value for name, value in stripped.items() if name not in _COUNTERS}
        prefix = _common_prefix(stripped)
        if prefix is None:
            return stripped or dict(state)
        stripped = {name.removeprefix(prefix): value for name, value in stripped.items()}


def select(state: Mapping[str, Tensor], expected: Iterable[str]) -> dict[str, Tensor]:
    """The part of a state that lies under one prefix and has all expected names.

    A file of Lightning also holds the metrics of its module, one of BYOL two networks. The state
    itself where no prefix, or more than one, gives all names.

    Args:
        state: weights under any names.
        expected: names that the network needs.
    """
    needed = set(expected)
    if not needed or needed <= state.keys():
        return dict(state)
    own = _common_prefix(needed)
    if own is not None and needed <= {own + name for name in state}:  # stripped as a wrapper's
        return {own + name: value for name, value in state.items()}
    probe = min(needed)
    prefixes = [name.removesuffix(probe) for name in state if name.endswith("." + probe)]
    fitting = [prefix for prefix in prefixes if all(prefix + name in state for name in needed)]
    averaged = [prefix for prefix in fitting if "ema" in prefix or "average" in prefix]
    chosen = averaged if len(averaged) == 1 else fitting
    if len(chosen) != 1:
        return dict(state)
    prefix = chosen[0]
    return {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}


def _find(document: Any, depth: int) -> Mapping[str, Tensor] | None:
    """The mapping of names to tensors inside a document."""
    if not isinstance(document, Mapping) or not document or depth == 0:
        return None
    if _is_state(document):
        return document
    for key in _NESTED:
        found = _find(document.get(key), depth - 1)
        if found is not None:
            return found
    if any(isinstance(value, Tensor) for value in document.values()):
        return None  # weights and other things under names of one level: nothing says which
    others = [value for value in document.values() if _is_state(value)]
    return others[0] if len(others) == 1 else None


def _is_state(value: Any) -> bool:
    """Whether these are tensors by name; averages count their updates as plain numbers."""
    return (
        isinstance(value, Mapping)
        and any(isinstance(member, Tensor) and member.ndim > 0 for member in value.values())
        and all(
            isinstance(name, str) and (isinstance(member, Tensor) or name in _COUNTERS)
            for name, member in value.items()
        )
    )


def _common_prefix(names: Iterable[str]) -> str | None:
    names = list(names)
    for prefix in PREFIXES:
        if names and all(name.startswith(prefix) for name in names):
            return prefix
    return None


def _describe(document: Any) -> str:
    """What a file holds that has no weights, for a message."""
    if not isinstance(document, Mapping):
        return f"no weights but a {type(document).__name__}"
    if not document:
        return "no weights: it is empty"
    strange = [name for name, value in document.items() if not isinstance(value, Tensor)]
    if len(strange) < len(document):
        return f"things that are no tensors ({strange[0]!r})"
    shown = ", ".join(repr(name) for name in list(document)[:5])
    return f"no weights where they are known to lie (it has {shown})"
