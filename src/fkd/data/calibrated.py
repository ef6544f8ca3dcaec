"""Stored crops of which some crops are left out and some labels replaced by the true class."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fkd.data.crop_sources import StoredCropSource, image_streams
from fkd.labels.calibration import (
    BINS,
    CalibrationConfig,
    Verdict,
    calibrate,
    confidences,
    count,
    judge,
    thresholds,
)
from fkd.labels.codecs import Codec
from fkd.labels.targets import SoftTargets
from fkd.randomness import Purpose, permutations
from fkd.store import LabeledCrops, LabelStore

_VALUES_AT_ONCE = 1 << 20  # more do not stay in the cache


@dataclass(frozen=True)
class Survey:
    """What becomes of every stored crop.

    Attributes:
        verdicts: uint8 (rows of the store, M), see `fkd.labels.calibration.Verdict`.
        num_crops: labeled crops.
        num_left_out: of these, not shown any more.
        num_calibrated: of these, labeled with their true class.
        num_restored: images of which every crop would be left out. They keep all crops; those below
            the lowest threshold are calibrated.
    """

    verdicts: np.ndarray
    num_crops: int
    num_left_out: int
    num_calibrated: int
    num_restored: int

    def __str__(self) -> str:
        """For example "3.1 % of the crops left out, 12.0 % with their true class"."""
        out, calibrated = (n / self.num_crops for n in (self.num_left_out, self.num_calibrated))
        text = f"{out:.1%} of the crops left out, {calibrated:.1%} with their true class"
        if self.num_restored:
            text += f" (with all crops of {self.num_restored:,} images that would have none left)"
        return text.replace("%", " %")


def survey(
    store: LabelStore, codec: Codec, config: CalibrationConfig, rows: np.ndarray, truth: np.ndarray
) -> Survey:
    """Look at every label once, or twice where thresholds are shares of all crops.

    Args:
        store: the labels.
        codec: how they are decoded.
        config: what becomes of which.
        rows: of the labeled images, int64 (n,).
        truth: the true class of each of them, int64 (n,).

    Raises:
        StoreError: a label is damaged.
    """
    by_truth = config.confidence == "truth"

    def look() -> Iterator[tuple[np.ndarray, Tensor]]:
        size = max(1, _VALUES_AT_ONCE // (store.num_crops * _num_values(codec, store.num_classes)))
        for first in range(0, len(rows), size):
            chosen = slice(first, first + size)
            targets = codec.targets(store.read(rows[chosen]).label, store.num_classes)
            classes = torch.from_numpy(truth[chosen]).repeat_interleave(store.num_crops)
            yield rows[chosen], confidences(targets, classes if by_truth else None)

    counts = np.zeros(BINS, np.int64)
    for _, values in look() if config.shares else ():
        counts += count(values)
    limits = thresholds(config, counts)
    verdicts = np.zeros((store.num_images, store.num_crops), np.uint8)
    restored = 0
    for seen, values in look():
        values = values.view(-1, store.num_crops)
        found = judge(values, limits)
        lost = (found == Verdict.LEAVE_OUT).all(1)
        restored += int(lost.sum())
        found[lost] = torch.where(values[lost] < limits.low, Verdict.CALIBRATE, Verdict.KEEP).byte()
        verdicts[seen] = found.numpy()
    out, calibrated = (int((verdicts == v).sum()) for v in (Verdict.LEAVE_OUT, Verdict.CALIBRATE))
    return Survey(verdicts, len(rows) * store.num_crops, out, calibrated, restored)


def _num_values(codec: Codec, num_classes: int) -> int:
    """Numbers that a label takes while its confidence is found."""
    return max(codec.num_ids(num_classes) ** 2, codec.num_values(num_classes), 1)


class CalibratedCropSource(StoredCropSource):
    """The crops of a label store that are not left out, some with their true class.

    An image with fewer such crops than an access has shows some of them again.

    Args:
        truth: the true class of each image, int64 (len(images),).
        survey: what becomes of each crop.
        smoothing: of the labels that are replaced.
        others: as for `StoredCropSource`.
    """

    def __init__(
        self, *args: Any, truth: np.ndarray, survey: Survey, smoothing: float, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._truth = truth
        self._verdicts = survey.verdicts
        self._smoothing = smoothing

    def crop_numbers(self, images: np.ndarray, start: int, crops_per_image: int) -> np.ndarray:
        """Which stored crops an access to images (B,) uses, int64 (B, m)."""
        streams = image_streams(self._images, images, self._seed)
        shown = self._verdicts[images] != Verdict.LEAVE_OUT
        numbers = np.argsort(~shown, axis=1, kind="stable")  # of those that are shown, then others
        chosen = np.empty((len(images), crops_per_image), np.int64)
        left = shown.sum(1)
        for size in np.unique(left).tolist():
            alike = left == size
            chosen[alike] = self._draw_order(streams[alike], size, start, crops_per_image)
        return np.take_along_axis(numbers, chosen, axis=1)

    def _draw_order(
        self, streams: np.ndarray, num_crops: int, start: int, crops_per_image: int
    ) -> np.ndarray:
        if num_crops >= self._crops_per_image:
            return super()._draw_order(streams, num_crops, start, crops_per_image)
        # No access can do without repeats: one random order after the other.
        cycles, positions = np.divmod(np.arange(start, start + crops_per_image), num_crops)
        orders = permutations(streams[:, None], Purpose.VIEW_ORDER, cycles, num_crops)
        return np.take_along_axis(orders, positions[None, :, None], axis=2)[:, :, 0]

    def _targets(self, stored: LabeledCrops, images: np.ndarray, crops: np.ndarray) -> SoftTargets:
        targets = super()._targets(stored, images, crops)
        verdicts = np.take_along_axis(self._verdicts[images], crops, axis=1)
        chosen = torch.from_numpy(verdicts.ravel() == Verdict.CALIBRATE)
        truth = torch.from_numpy(self._truth[images]).repeat_interleave(crops.shape[1])
        return calibrate(targets, chosen, truth, self._smoothing)
