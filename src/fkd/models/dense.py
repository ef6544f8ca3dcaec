"""Logits of every part of an image: a teacher's classifier without the global pooling.

    features (B, F, gh, gw) --pool--> (B, F) --linear--> (B, C)        logits of the image
    features (B, F, gh, gw) --linear, cell by cell--> (B, C, gh, gw)   a map of logits

A classifier is applied to a cell by handing it a feature map of one cell, which its pooling leaves
alone: the same weights, as a 1x1 convolution. Where pooling is a mean and what follows is linear,
the mean of the cells' logits is the logit of the image; this is checked when a network is
wrapped, and tells those heads where cells would mean something else.

Source: Re-labeling ImageNet (Yun et al., CVPR 2021), Sec. 3.1.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fkd.crops.replay import InputSpec
from fkd.errors import TeacherError
from fkd.models.numerics import Autocast
from fkd.models.single_teacher import Teacher

_TOLERANCE = 1e-4  # between the mean of the cells and the logits, relative to the largest logit
_SUITABLE = "resnet50, regnety_040, tf_efficientnet_lite0 or torchvision/resnet50"
Network = Callable[[Tensor], Tensor]


class DenseTeacher:
    """A teacher's map of logits for whole images; shares the teacher's network.

    Attributes:
        teacher: classifies crops.
        grid: rows and columns of its maps.
    """

    def __init__(self, teacher: Teacher) -> None:
        """Takes a teacher on its device.

        Raises:
            TeacherError: its classifier is no linear function of mean features.
        """
        self.teacher = teacher
        self._network = _without_pooling(teacher)
        self.grid = self._check()

    @property
    def view(self) -> InputSpec:
        """What images must be made for: whole, at the teacher's input size."""
        return self.teacher.view

    def logit_maps(self, images: Tensor, *, autocast: Autocast | None = None) -> Tensor:
        """Logits of every cell, float32 (B, gh * gw, C), of uint8 images (B, 3, S, S).

        Raises:
            TeacherError: as `Teacher.logits`.
        """
        maps = self.teacher.forward(self._network, images, autocast=autocast)
        return maps.flatten(2).transpose(1, 2)

    def _check(self) -> tuple[int, int]:
        """Rows and columns of a map, whose mean must be the teacher's logits."""
        example = _blocks(self.teacher.preprocessing.input_size)
        logits = self.teacher.logits(example)
        try:
            maps = self.teacher.forward(self._network, example)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise self._unsuitable(f"cannot be applied to one cell ({error})") from error
        if maps.ndim != 4 or maps.shape[:2] != logits.shape:
            raise self._unsuitable(f"gives {tuple(maps.shape)} instead of a map of its logits")
        change = float((maps.mean((2, 3)) - logits).abs().max())
        if not change <= _TOLERANCE * float(logits.abs().max()):  # False for NaN
            raise self._unsuitable(f"differs by {change:.2g} from the mean of its cells")
        return maps.shape[2], maps.shape[3]

    def _unsuitable(self, what: str) -> TeacherError:
        return TeacherError(
            f"teacher {self.teacher.name} has no label maps: its classifier {what}. It must take "
            f"the mean of a feature map and then be linear, as that of {_SUITABLE}"
        )


def _blocks(size: int) -> Tensor:
    """Images of few large squares, uint8 (2, 3, size, size): their cells differ, as in noise they
    would not, so that a classifier that is not linear shows."""
    generator = torch.Generator().manual_seed(0)
    colors = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8, generator=generator)
    return nn.functional.interpolate(colors, (size, size), mode="nearest")


def _without_pooling(teacher: Teacher) -> Network:
    """The network up to logits (B, C, gh, gw)."""
    model: Any = teacher.model
    if hasattr(model, "forward_features") and hasattr(model, "forward_head"):  # timm
        return _Cells(model, teacher.name)
    if isinstance(getattr(model, "avgpool", None), nn.Module):  # most of torchvision
        return _PoolingReplaced(model)
    raise TeacherError(
        f"teacher {teacher.name} has no label maps: where its global pooling lies is not known; "
        f"use {_SUITABLE}"
    )


class _Cells:
    """timm's networks, which say where features end and the classifier begins."""

    def __init__(self, model: Any, name: str) -> None:
        self._model = model
        self._name = name
        self._channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"

    def __call__(self, images: Tensor) -> Tensor:
        features: Tensor = self._model.forward_features(images)
        if not isinstance(features, Tensor) or features.ndim != 4:
            raise ValueError("its features are no map")
        if not self._channels_last:
            features = features.permute(0, 2, 3, 1)
        num_images, rows, columns, _ = features.shape
        cells = features.reshape(num_images * rows * columns, 1, 1, -1)
        logits: Tensor = self._model.forward_head(
            cells if self._channels_last else cells.permute(0, 3, 1, 2)
        )
        return _as_map(logits, num_images, (rows, columns))


class _PoolingReplaced:
    """Networks with one pooling module, which then makes an image of every cell."""

    def __init__(self, model: nn.Module) -> None:
        self._model = copy.copy(model)  # the same weights and modules but one
        self._model._modules = dict(model._modules)
        self._model._modules["avgpool"] = _Scatter()

    def __call__(self, images: Tensor) -> Tensor:
        side = images.shape[2]
        logits: Tensor = self._model(images)
        cells = len(logits) // len(images)
        columns = round(cells**0.5)  # images are square
        if columns * columns != cells:
            raise ValueError(f"{cells} cells of a square of {side} pixels")
        return _as_map(logits, len(images), (columns, columns))


class _Scatter(nn.Module):
    """Every cell of a feature map as a feature map of its own."""

    def forward(self, features: Tensor) -> Tensor:
        """From (B, F, gh, gw) to (B * gh * gw, F, 1, 1)."""
        channels = features.shape[1]
        return features.permute(0, 2, 3, 1).reshape(-1, channels, 1, 1)


def _as_map(logits: Tensor, num_images: int, grid: tuple[int, int]) -> Tensor:
    """From (B * gh * gw, C) to (B, C, gh, gw)."""
    return logits.reshape(num_images, *grid, -1).permute(0, 3, 1, 2)
