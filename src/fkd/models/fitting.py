"""Puts the weights of a state dict into a network, entirely or with a reason why not."""

from collections.abc import Mapping

from torch import Tensor, nn

from fkd.errors import ConfigError
from fkd.models.headless import classifier_parameters

_COUNTER = "num_batches_tracked"  # absent in old files; has no influence on the outputs
_SHOWN = 3


def stored_classes(state: Mapping[str, Tensor], model: nn.Module, num_classes: int) -> int:
    """How many classes the head in `state` has, where `model` has `num_classes`.

    Equal to `num_classes` if the heads agree, or if no single other number explains the shapes.
    """
    sizes = {len(state[name]) for name in _head_parameters(state, model, num_classes)}
    return sizes.pop() if len(sizes) == 1 else num_classes


def load_weights(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    num_classes: int,
    origin: str,
    new_head: bool = False,
) -> None:
    """Copy all weights into `model`; with `new_head`, all but a head of other than `num_classes`.

    With `new_head` the state may also lack the head.

    Raises:
        ConfigError: names or shapes differ; the first ones and `origin` are in the message.
    """
    head = _head_parameters(state, model, num_classes)
    if head and new_head:
        state = {name: value for name, value in state.items() if name not in head}
    expected = model.state_dict()
    reshaped = [n for n, v in state.items() if n in expected and v.shape != expected[n].shape]
    if head and sorted(head) == sorted(reshaped):
        raise ConfigError(
            f"{origin} has a head of {len(state[head[0]])} classes ({', '.join(head)}), not "
            f"{num_classes}; leave num_classes out to keep it, or set new_head to start another"
        )
    absent = [n for n in expected if n not in state and not n.endswith(_COUNTER)]
    absent = [n for n in absent if not (new_head and n in head)]
    unknown = [n for n in state if n not in expected]
    if absent and not unknown and set(absent) == _whole_head(model):
        if not (new_head or reshaped):
            raise ConfigError(
                f"{origin} has no head ({absent[0]} is missing); take the features of this model "
                "(--teacher.output features), or set new_head to start another"
            )
        absent = [] if new_head else absent
    if reshaped or absent or unknown:
        differences = [
            *(_describe_shapes(n, state, expected) for n in reshaped),
            *(f"{n} is missing" for n in absent),
            *(f"{n} is not in the model" for n in unknown),
        ]
        more = f" and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        size = ", and its input size" if any("pos" in name for name in reshaped) else ""
        raise ConfigError(
            f"{origin} does not fit the model: {'; '.join(differences[:_SHOWN])}{more}; "
            f"give the name of the model it was saved from{size}"
        )
    # Into the model's own, whose versions of layouts say that these names and shapes are current.
    expected.update(state)
    model.load_state_dict(expected, strict=False)


def _head_parameters(state: Mapping[str, Tensor], model: nn.Module, num_classes: int) -> list[str]:
    """Parameters that differ in their first axis only, which in `model` is the classes."""
    expected = model.state_dict()
    return [
        name
        for name, stored in state.items()
        if name in expected
        and stored.ndim > 0
        and expected[name].ndim > 0
        and len(expected[name]) == num_classes != len(stored)
        and stored.shape[1:] == expected[name].shape[1:]
    ]


def _whole_head(model: nn.Module) -> set[str]:
    return {name for name in classifier_parameters(model) if not name.endswith(_COUNTER)}


def _describe_shapes(name: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    return f"{name} has shape {list(state[name].shape)}, not {list(expected[name].shape)}"
