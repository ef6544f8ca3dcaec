"""Students that give embeddings: any network without its classifier, and a head on its features.

    none        the features themselves
    mlp         unit vectors, as MoCo V2 and S2-BNN have them
    prototypes  cosines with learned prototypes, as SwAV has them

When training ends, network and head go separate ways: the folder of a run holds the weights of the
network as those of any other, and those of the head in `HEAD_FILE` beside them.
"""

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from fkd.errors import ConfigError
from fkd.models.architectures.embedders import Embedder, MlpHead, NoHead, PrototypeHead
from fkd.models.cards import is_described, read_card
from fkd.models.features import PooledFeatures
from fkd.models.state_dicts import unwrap
from fkd.models.weight_files import read_weight_file
from fkd.userfiles import home_path

HeadKind = Literal["none", "mlp", "prototypes"]
HEAD_FILE = "head.safetensors"
_BACKBONE, _HEAD = "backbone.model.", "head."


class Backbone(PooledFeatures):
    """The pooled features of a network, and how many there are.

    Args:
        model: without a classifier.
        name: what messages call it.
        input_size: of its crops, pixels.

    Attributes:
        num_features: d.
    """

    def __init__(self, model: nn.Module, name: str, input_size: int) -> None:
        super().__init__(model, name)
        self.num_features = self.count(input_size)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that the network exempts from weight decay, as timm asks."""
        exempt: Any = getattr(self.model, "no_weight_decay", set)
        return {f"model.{name}" for name in exempt()}


def attach_head(
    model: nn.Module,
    kind: HeadKind,
    num_outputs: int,
    *,
    input_size: int,
    name: str,
    hidden: int | None = None,
    dim: int | None = None,
) -> Embedder:
    """A student that gives embeddings (B, num_outputs) of images (B, 3, S, S).

    Args:
        model: its network, without a classifier (`load_model(..., headless=True)`).
        kind: of its head, which starts from random weights.
        num_outputs: D, the width of the embeddings to learn.
        input_size: S.
        name: of the network, for messages.
        hidden: width of the hidden layer of mlp and prototypes; by default that of the features.
        dim: width of the unit vectors that prototypes are compared with; by default 128.

    Raises:
        ConfigError: the network has a head of its own, nothing is known of its features, or it has
            no head and another width than the embeddings.
    """
    if isinstance(model, Embedder):
        raise ConfigError(
            f"student.name: {name} has a head of its own; name its backbone and choose "
            "student.head, e.g. --student.name resnet50 --student.head mlp"
        )
    backbone = Backbone(model, f"student {name}", input_size)
    width = backbone.num_features
    if kind == "none":
        if width != num_outputs:
            raise ConfigError(
                f"student.head none: student {name} has {width} features, the embeddings to learn "
                f"{num_outputs}; use --student.head mlp, or a network of {num_outputs} features"
            )
        return Embedder(backbone, NoHead(width))
    if kind == "mlp":
        return Embedder(backbone, MlpHead(width, num_outputs, hidden))
    given = {} if dim is None else {"dim": dim}
    return Embedder(backbone, PrototypeHead(width, hidden, num_prototypes=num_outputs, **given))


def network_of(student: Embedder) -> nn.Module:
    """The network of a student that `attach_head` made, which is what a run folder holds."""
    backbone = student.backbone
    assert isinstance(backbone, Backbone)
    return backbone.model


def split_state(student: Embedder) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of a student's network, by the names of its library, and those of its head.

    The head's are empty where it has none.
    """
    state = student.state_dict()
    return _below(_BACKBONE, state), _below(_HEAD, state)


def load_head(student: Embedder, checkpoint: str) -> None:
    """Give a student the head that lies beside the weights of its network, if one does.

    Args:
        student: its head has random weights.
        checkpoint: of its network; a run folder, or anything else, which has no head.

    Raises:
        ConfigError: the head is of another kind or size, or cannot be read.
    """
    folder = home_path(checkpoint)
    folder = folder if folder.is_dir() else folder.parent
    # Beside a file of others, a head of that name may be of any run.
    card = read_card(folder)[0] if is_described(folder) else None
    if isinstance(student.head, NoHead) or card is None or not card.has_head:
        return
    file = folder / HEAD_FILE
    state = unwrap(read_weight_file(file), f"student.checkpoint: {file}")
    expected = student.head.state_dict()
    if {n: v.shape for n, v in state.items()} != {n: v.shape for n, v in expected.items()}:
        raise ConfigError(
            f"student.checkpoint: the head in {file} is of another kind or size than the one to "
            "train; use the same student.head settings and embeddings of the same width, or "
            "--student.new_head true to start another"
        )
    student.head.load_state_dict(state)


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): value for n, value in state.items() if n.startswith(prefix)}
