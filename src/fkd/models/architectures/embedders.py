"""Networks that give an embedding in place of class scores: a backbone and a head on its features.

    MLP head         features -> Linear, ReLU, Linear -> unit vector             MoCo V2, S2-BNN
    prototype head   features -> Linear, BN, ReLU, Linear -> unit vector z       SwAV
                     scores = z . prototypes, cosines with learned unit vectors

What a head gives is what a label store keeps of a self-supervised teacher; a temperature comes in
training. `moco_v2_resnet50` and `swav_resnet50` (also `w2`, `w4`, `w5`: every layer as many times
as wide, the stem included) have the authors' layouts; a student is any backbone with either head.

Source: Chen et al., "Improved Baselines with Momentum Contrastive Learning", 2020 (MoCo V2); Caron
et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", NeurIPS 2020
(SwAV).
"""

from collections.abc import Mapping
from typing import Any

import timm
import torch.nn.functional as F
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

_LAYERS = (3, 4, 6, 3)  # of ResNet-50
_DIM = 128  # of embeddings, in both papers
_PROTOTYPES = 3000


class MlpHead(nn.Module):
    """Features to unit vectors through one hidden layer.

    Args:
        num_features: d.
        dim: of the unit vectors.
        hidden: width of the hidden layer; by default d.
    """

    def __init__(self, num_features: int, dim: int = _DIM, hidden: int | None = None) -> None:
        super().__init__()
        self.num_outputs = dim
        width = hidden or num_features
        self.layers = nn.Sequential(
            nn.Linear(num_features, width), nn.ReLU(), nn.Linear(width, dim)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Unit vectors (B, dim) of features (B, d)."""
        return F.normalize(self.layers(features), dim=1)


class PrototypeHead(nn.Module):
    """Features to cosines with prototypes.

    Args:
        num_features: d.
        hidden: width of the hidden layer; by default d.
        dim: of the unit vectors that are compared with the prototypes.
        num_prototypes: how many.
    """

    def __init__(
        self,
        num_features: int,
        hidden: int | None = None,
        dim: int = _DIM,
        num_prototypes: int = _PROTOTYPES,
    ) -> None:
        super().__init__()
        self.num_outputs = num_prototypes
        width = hidden or num_features
        self.projection = nn.Sequential(
            nn.Linear(num_features, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, dim)
        )
        self.prototypes = nn.Linear(dim, num_prototypes, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Cosines (B, prototypes) of features (B, d)."""
        z = F.normalize(self.projection(features), dim=1)
        # The authors keep the prototypes at unit length by hand; here they are scaled in use.
        return F.linear(z, F.normalize(self.prototypes.weight, dim=1))


class NoHead(nn.Identity):
    """Features as they are.

    Args:
        num_features: d.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_outputs = num_features


class Embedder(nn.Module):
    """A backbone whose pooled features go through a head.

    Args:
        backbone: images (B, 3, S, S) to features (B, num_features); has `num_features`.
        head: features to embeddings; has `num_outputs`.

    Attributes:
        num_classes: width of the output, by the name that timm has for it.
    """

    def __init__(self, backbone: nn.Module, head: MlpHead | PrototypeHead | NoHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.num_features = backbone.num_features
        self.num_classes = head.num_outputs

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings (B, num_classes) of images (B, 3, S, S)."""
        embedding: Tensor = self.head(self.backbone(images))
        return embedding

    def get_classifier(self) -> nn.Module:
        """The head, as timm asks for it."""
        return self.head

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that its backbone exempts from weight decay, as timm asks."""
        exempt: Any = getattr(self.backbone, "no_weight_decay", set)
        return {f"backbone.{name}" for name in exempt()}


class WideResNet50(ResNet):  # type: ignore[misc,unused-ignore]
    """ResNet-50 without a classifier, all of whose layers are `widen` times as wide.

    Torchvision's own wide networks widen the middle of each block only.
    """

    def __init__(self, widen: int) -> None:
        super().__init__(Bottleneck, [1, 1, 1, 1], num_classes=1)
        width = self.inplanes = 64 * widen
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        for number, blocks in enumerate(_LAYERS):
            stride = 1 if number == 0 else 2
            layer = self._make_layer(Bottleneck, width * 2**number, blocks, stride)
            setattr(self, f"layer{number + 1}", layer)
        self.fc = nn.Identity()
        self.num_features = 8 * width * Bottleneck.expansion


def rename_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the names of `Embedder`, from that of a checkpoint of MoCo V2 or SwAV.

    MoCo's key encoder and queue are left out: they serve its training alone. Anything else is left
    as it is.
    """
    plain = {key.removeprefix("module."): value for key, value in state.items()}
    query = {
        key.removeprefix("encoder_q."): value
        for key, value in plain.items()
        if key.startswith("encoder_q.")
    }
    if query:
        return {_rename(key, {"fc.": "head.layers."}): value for key, value in query.items()}
    heads = {"projection_head.": "head.projection.", "prototypes.": "head.prototypes."}
    if not any(key.startswith(tuple(heads)) for key in plain):  # a part of a head tells it, too
        return dict(state)
    return {_rename(key, heads): value for key, value in plain.items()}


def _rename(key: str, heads: Mapping[str, str]) -> str:
    for theirs, ours in heads.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return f"backbone.{key}"


default_cfgs = generate_default_cfgs(
    {
        f"{name}.untrained": {
            "input_size": (3, 224, 224),
            "crop_pct": 0.875,
            "interpolation": "bilinear",
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "num_classes": outputs,
            "first_conv": "backbone.conv1",
            "classifier": "head",
        }
        for name, outputs in {
            "moco_v2_resnet50": _DIM,
            **{f"swav_resnet50{wide}": _PROTOTYPES for wide in ("", "w2", "w4", "w5")},
        }.items()
    }
)


@register_model
def moco_v2_resnet50(pretrained: bool = False, num_classes: int = _DIM, **kwargs: Any) -> Embedder:
    """MoCo V2's ResNet-50 with its MLP head: unit vectors of 128 dimensions."""
    _refuse_pretrained(pretrained)
    backbone: Any = timm.create_model("resnet50", num_classes=0, **kwargs)
    return Embedder(backbone, MlpHead(backbone.num_features, num_classes))


def _swav(widen: int, pretrained: bool, num_classes: int = _PROTOTYPES, **kwargs: Any) -> Embedder:
    _refuse_pretrained(pretrained)
    known = {"pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}  # timm gives them to all
    if strange := kwargs.keys() - known:
        raise TypeError(f"a network of SwAV has no {', '.join(sorted(strange))}")
    backbone = WideResNet50(widen)
    return Embedder(backbone, PrototypeHead(backbone.num_features, num_prototypes=num_classes))


def _refuse_pretrained(pretrained: bool) -> None:
    """A network without its weights would be taken for a trained one."""
    if pretrained:
        raise RuntimeError("timm has no address of them, get the file of their authors")


@register_model
def swav_resnet50(pretrained: bool = False, **kwargs: Any) -> Embedder:
    """SwAV's ResNet-50: cosines with 3,000 prototypes."""
    return _swav(1, pretrained, **kwargs)


@register_model
def swav_resnet50w2(pretrained: bool = False, **kwargs: Any) -> Embedder:
    """SwAV's ResNet-50 of twice the width."""
    return _swav(2, pretrained, **kwargs)


@register_model
def swav_resnet50w4(pretrained: bool = False, **kwargs: Any) -> Embedder:
    """SwAV's ResNet-50 of four times the width: 444 M parameters."""
    return _swav(4, pretrained, **kwargs)


@register_model
def swav_resnet50w5(pretrained: bool = False, **kwargs: Any) -> Embedder:
    """SwAV's ResNet-50 of five times the width."""
    return _swav(5, pretrained, **kwargs)
