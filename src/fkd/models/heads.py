"""Projection heads from files of their own, for any backbone whose features they were trained on.

    layers.{0,2}.{weight,bias}                        an MLP head, as in MoCo V2
    projection.{0,1,3}.*, prototypes.weight           a prototype head, as in SwAV

The names may begin with "head.", or be those of the authors' checkpoints; a backbone beside the
head is left out.
"""

from collections.abc import Mapping

from torch import Tensor

from fkd.errors import ConfigError
from fkd.models.architectures.embedders import MlpHead, PrototypeHead, rename_published
from fkd.models.checkpoints import load_checkpoint

_HEAD = "head."
_SHOWN = 3
Head = MlpHead | PrototypeHead


def load_head(path: str, num_features: int, owner: str) -> Head:
    """The head in a file, in training mode, on the CPU.

    Args:
        path: of a file of weights.
        num_features: that it gets.
        owner: whose features these are, for messages.

    Raises:
        ConfigError: the file cannot be read, holds no head, or one for other features.
    """
    try:
        checkpoint = load_checkpoint(path)
    except ConfigError as error:
        reason = str(error).removeprefix("checkpoint: ")
        raise ConfigError(f"teacher.head: {reason}") from error
    state = _of_head(checkpoint.state)
    head, first = _build(state, num_features)
    if head is None:
        shown = ", ".join(list(state)[:_SHOWN])
        raise ConfigError(
            f"teacher.head: {checkpoint.path} holds neither an MLP head (layers.0.weight, ...) nor "
            f"a prototype head (projection.0.weight, prototypes.weight, ...) but {shown}; give the "
            "state_dict of a head"
        )
    if first.shape[1] != num_features:
        raise ConfigError(
            f"teacher.head: {checkpoint.path} takes {first.shape[1]:,} features, and {owner} gives "
            f"{num_features:,}; give a head that was trained on this backbone"
        )
    if differences := _differences(state, head):
        raise ConfigError(
            f"teacher.head: {checkpoint.path} is no whole {type(head).__name__}: "
            f"{'; '.join(differences[:_SHOWN])}; save the state_dict of the head again"
        )
    head.load_state_dict(state, strict=False)
    return head


def _of_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a state that is of a head, under our names."""
    if not any(name.startswith(("layers.", "projection.")) for name in state):
        state = rename_published(state)
    inside = {n.removeprefix(_HEAD): v for n, v in state.items() if n.startswith(_HEAD)}
    return inside or dict(state)


def _build(state: Mapping[str, Tensor], num_features: int) -> tuple[Head | None, Tensor]:
    """A head of the sizes in a state, and its first weights; None if it is of no head."""
    nothing = Tensor()
    mlp, last = state.get("layers.0.weight", nothing), state.get("layers.2.weight", nothing)
    if mlp.ndim == last.ndim == 2:
        return MlpHead(num_features, len(last)), mlp
    first, rows = state.get("projection.0.weight", nothing), state.get("prototypes.weight", nothing)
    if first.ndim == rows.ndim == 2:
        return PrototypeHead(num_features, len(first), rows.shape[1], len(rows)), first
    return None, nothing


def _differences(state: Mapping[str, Tensor], head: Head) -> list[str]:
    """What a state lacks, or has otherwise or besides."""
    expected = head.state_dict()
    shapes = [
        f"{name} has shape {list(value.shape)}, not {list(expected[name].shape)}"
        for name, value in state.items()
        if name in expected and value.shape != expected[name].shape
    ]
    absent = [f"{name} is missing" for name in expected.keys() - state.keys()]
    absent = [text for text in absent if "num_batches_tracked" not in text]
    return [
        *shapes,
        *sorted(absent),
        *sorted(f"{n} is unknown" for n in state.keys() - expected.keys()),
    ]
