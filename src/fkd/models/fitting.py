"""Puts the weights of a state dict into a network, entirely or with a reason why not."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fkd.errors import ConfigError

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

    A network without a head (`num_classes` 0) takes all but the head of any state.

    Raises:
        ConfigError: names or shapes differ; the first ones and `origin` are in the message.
    """
    if num_classes == 0:
        state = without_head(state, model)
    elif lacks_head(state, model):
        if not new_head:
            raise ConfigError(
                f"{origin} is of a network without a head, so nothing maps its features to "
                f"{num_classes} classes; set new_head to start a head, or ask for its features"
            )
        state = {**model.state_dict(), **state}
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
    absent = [n for n in missing_weights(state, model) if not n.endswith(_COUNTER)]
    absent = [n for n in absent if not (new_head and n in head)]
    unknown = [n for n in state if n not in expected]
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
    model.load_state_dict(dict(state), strict=False)


def head_prefixes(model: nn.Module) -> tuple[str, ...]:
    """What the names of the parameters of a network's classifier begin with.

    Timm says so; in torchvision's networks the classifier is the last linear layer.
    """
    config: Any = getattr(model, "pretrained_cfg", None)
    if isinstance(config, dict):
        classifier = config.get("classifier") or ()
        names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    else:
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        names = tuple(linear[-1:])
    return tuple(f"{name}." for name in names)


def without_head(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A state without the parameters of a classifier that `model` was built without."""
    prefixes = head_prefixes(model)
    kept = {name for name, value in model.state_dict().items() if value.numel()}
    return {n: v for n, v in state.items() if n in kept or not n.startswith(prefixes)}


def lacks_head(state: Mapping[str, Tensor], model: nn.Module) -> bool:
    """Whether a state has all that `model` has, but none of its classifier."""
    prefixes, expected = head_prefixes(model), model.state_dict()
    body = {n: v.shape for n, v in expected.items() if not n.startswith(prefixes)}
    optional = {name for name in body if name.endswith(_COUNTER)}
    found = {name: value.shape for name, value in state.items()}
    return len(body) < len(expected) and body == {n: body[n] for n in optional} | found


def missing_weights(state: Mapping[str, Tensor], model: nn.Module) -> list[str]:
    """Names of `model` that a state lacks; a head of no classes has no weights that could be."""
    return [n for n, value in model.state_dict().items() if n not in state and value.numel()]


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


def _describe_shapes(name: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    return f"{name} has shape {list(state[name].shape)}, not {list(expected[name].shape)}"
