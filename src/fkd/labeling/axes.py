"""Are label maps indexed (row, column) or (column, row)? Files of others do not say it.

A map read the wrong way gives a crop at the top right the label of the bottom left. So a teacher
looks at crops away from the diagonal of their images, and its labels are compared with those that
are pooled from the map under either reading. It need not be the teacher of the maps: what it must
know is their classes.

Only crops count whose two labels differ, and which crops these are does not depend on which reading
is right. The labels follow a reading if the teacher is nearer to it (KL divergence) on so many of
the crops that chance would do so less than once in a thousand times (sign test, two-sided).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fkd.crops.records import CropRecords
from fkd.crops.replay import replay
from fkd.data.sources import ImageSource, load, spread_images
from fkd.errors import ImageError
from fkd.labels.comparison import LabelComparison, compare
from fkd.labels.encoded import Encoded
from fkd.labels.pooling import pool_maps, roi_align_weights
from fkd.labels.targets import SoftTargets
from fkd.models.ensemble import TeacherEnsemble
from fkd.store import LabelStore

_CANDIDATES = 512  # images whose maps are looked at, from all over the source
_CROPS = 64  # of as many images, those whose readings differ most
_FEWEST = 10  # of fewer, not even all could decide
_LEAST_DIFFERENCE = 0.1  # total variation of the two labels of a crop
_CHANCE = 1e-3
_BATCH = 16
# Top and left of crops of half the height and width; every crop comes with its mirror image on the
# diagonal, for which the readings change places.
_CORNERS = [(0.0, 0.25), (0.0, 0.5), (0.25, 0.5), (0.25, 0.0), (0.5, 0.0), (0.5, 0.25)]
_SIDE = 0.5

ReadMap = Callable[[int], Encoded]
"""The labels (cells, K) of an image, by its position in the source."""


@dataclass(frozen=True)
class AxesReport:
    """Labels pooled under both readings against a teacher's labels of the same crops.

    Attributes:
        as_read: labels pooled from the maps as they are, against the teacher's as reference.
        exchanged: the same with rows and columns exchanged.
        num_nearer: crops whose label as read is nearer to the teacher's than the other one.
    """

    as_read: LabelComparison
    exchanged: LabelComparison
    num_nearer: int

    @property
    def num(self) -> int:
        """Crops compared, each of another image."""
        return self.as_read.num

    @property
    def is_right(self) -> bool | None:
        """Whether the maps are read as they are meant; None where that cannot be told."""
        larger = max(self.num_nearer, self.num - self.num_nearer)
        if self.num < _FEWEST or _tail(larger, self.num) >= _CHANCE / 2:
            return None
        return self.num_nearer == larger

    def describe(self, *, swap_xy: bool = False) -> list[str]:
        """Both readings, and which one the labels follow, a line each.

        Args:
            swap_xy: whether the maps are read as (column, row) of the files.
        """
        names = ["(row, column)", "(column, row)"][:: -1 if swap_xy else 1]
        if self.num < _FEWEST:
            return [
                f"cannot be told: of only {self.num} images the labels of an off-center crop "
                f"differ between {names[0]} and {names[1]}; the maps are nearly symmetric"
            ]
        readings = [
            f"{name}: top-1 agreement {of_one.top1_agreement:.1%}, KL {of_one.mean_kl:.3g}"
            for name, of_one in zip(names, (self.as_read, self.exchanged), strict=True)
        ]
        crops = f"{self.num} off-center crops, one per image"
        verdict = (
            f"cannot be told: {self.num_nearer} of {self.num} crops are nearer to {names[0]}, "
            "which may be chance"
        )
        if self.is_right is not None:
            followed = names[0 if self.is_right else 1]
            nearer = max(self.num_nearer, self.num - self.num_nearer)
            verdict = (
                f"the labels follow {followed}, to which {nearer} of {self.num} crops are nearer"
            )
        return [f"{'; '.join(readings)} ({crops})", verdict]


class _Crop(NamedTuple):
    """A crop whose two labels differ.

    Attributes:
        image: its position in the source.
        corner: its top and left as shares of the image.
        difference: total variation of its two labels.
    """

    image: int
    corner: tuple[float, float]
    difference: float


def compare_axes(
    source: ImageSource,
    read_map: ReadMap,
    grid: tuple[int, int],
    teachers: TeacherEnsemble,
) -> AxesReport:
    """Compare both readings of label maps with what teachers say of off-center crops.

    Args:
        source: the images.
        read_map: gives the map of each.
        grid: rows and columns of the maps as they are read.
        teachers: with the classes of the maps, in their order.

    Raises:
        TeacherError: an output is not finite.
        FKDError: as `read_map`.
    """
    num_classes = len(teachers.class_names)
    places = spread_images(source, _CANDIDATES)
    found = [_choose(i, n % 2, read_map(i), grid, num_classes) for n, i in enumerate(places)]
    differing = [crop for crop in found if crop.difference >= _LEAST_DIFFERENCE]
    chosen = sorted(differing, key=lambda crop: -crop.difference)[:_CROPS]
    nothing = LabelComparison.empty()
    report = AxesReport(nothing, nothing, 0)
    if len(chosen) < _FEWEST:
        return AxesReport(LabelComparison(len(chosen), 1.0, 0.0, 0.0, 0.0), nothing, 0)
    for first in range(0, len(chosen), _BATCH):
        report = _add(report, source, read_map, grid, teachers, chosen[first : first + _BATCH])
    return report


def compare_axes_of(
    store: LabelStore, source: ImageSource, teachers: TeacherEnsemble
) -> AxesReport:
    """The same for a store of label maps and its images."""
    assert store.grid is not None
    return compare_axes(source, lambda i: store[source.key(i)].label, store.grid, teachers)


def _choose(
    image: int, twin: int, label: Encoded, grid: tuple[int, int], num_classes: int
) -> _Crop:
    """The crop of an image whose two labels differ most, or its twin across the diagonal."""
    boxes = np.array([[top, left, _SIDE, _SIDE] for top, left in _CORNERS])
    ones = np.ones((len(boxes), 2))
    one, other = _pool(label, boxes, ones, grid, num_classes)
    differences = (one.dense() - other.dense()).abs().sum(1) / 2
    best = int(differences.argmax())
    top, left = _CORNERS[best]
    corner = (left, top) if twin else (top, left)
    return _Crop(image, corner, float(differences[best]))


def _pool(
    label: Encoded,
    boxes: np.ndarray,
    sizes: np.ndarray,
    grid: tuple[int, int],
    num_classes: int,
) -> tuple[SoftTargets, SoftTargets]:
    """The labels of crops of one image under both readings."""
    assert label.ids is not None
    assert label.values is not None
    ids, values = label.ids[None], label.values[None]
    as_read, exchanged = (
        pool_maps(
            ids,
            values,
            roi_align_weights(boxes, sizes, grid, swap_xy=swap_xy)[None],
            num_classes,
        )
        for swap_xy in (False, True)
    )
    return as_read, exchanged


def _add(
    report: AxesReport,
    source: ImageSource,
    read_map: ReadMap,
    grid: tuple[int, int],
    teachers: TeacherEnsemble,
    crops: Sequence[_Crop],
) -> AxesReport:
    """The report with some more crops; images that cannot be read are left out."""
    num_classes = len(teachers.class_names)
    views: list[list[Tensor]] = []
    labels: list[tuple[Tensor, Tensor]] = []
    for crop in crops:
        try:
            image = load(source, crop.image).image
        except ImageError:
            continue
        size = np.array([[image.shape[1], image.shape[2]]])
        box = _pixels(crop.corner, size[0])
        records = CropRecords(box, np.zeros(1, bool))
        views.append(
            [replay(image, records, view.size, view.interpolation) for view in teachers.views]
        )
        one, other = _pool(read_map(crop.image), box, size, grid, num_classes)
        labels.append((one.dense(), other.dense()))
    if not labels:
        return report
    said = teachers.probabilities([torch.cat(view) for view in zip(*views, strict=True)]).cpu()
    teacher = SoftTargets.full(said)
    one, other = (SoftTargets.full(torch.cat(each)) for each in zip(*labels, strict=True))
    nearer = [
        compare(teacher[i : i + 1], one[i : i + 1]).mean_kl
        < compare(teacher[i : i + 1], other[i : i + 1]).mean_kl
        for i in range(len(labels))
    ]
    return AxesReport(
        report.as_read + compare(teacher, one),
        report.exchanged + compare(teacher, other),
        report.num_nearer + sum(nearer),
    )


def _pixels(corner: tuple[float, float], size: np.ndarray) -> np.ndarray:
    """The box (1, 4) of a crop in whole pixels of its image."""
    side = np.maximum((_SIDE * size).astype(int), 1)
    start = np.minimum((np.array(corner) * size).round().astype(int), size - side)
    box: np.ndarray = np.concatenate([start, side])[None]
    return box


def _tail(successes: int, trials: int) -> float:
    """How probable so many heads or more are, of so many throws of a coin."""
    ways = sum(math.comb(trials, heads) for heads in range(successes, trials + 1))
    probability: float = ways / 2**trials
    return probability
