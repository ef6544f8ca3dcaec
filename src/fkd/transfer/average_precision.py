"""Average precision of boxes and masks, as COCO measures it.

The mean over the overlaps 0.50, 0.55, ... 0.95 at which a detection counts, over categories, of the
precision at 101 recalls; at most 100 detections of an image count, and crowds forgive detections.
torchmetrics computes it, through faster-coco-eval, which gives the figures of pycocotools.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate.utils import gather_object
from torch import Tensor

from fkd.transfer.batches import Target
from fkd.transfer.masks import require_mask_library

_KINDS = {"bbox": "box", "segm": "mask"}
_IN_BOXES, _IN_MASKS = ("boxes", "labels", "scores"), ("boxes", "labels", "scores", "masks")
_ALL_SIZES, _MOST_DETECTIONS = 0, -1  # places in the table of precisions


@dataclass(frozen=True, kw_only=True)
class AveragePrecision:
    """AP of boxes or of masks, percent; None where there was nothing to find.

    Attributes:
        ap: mean over the overlaps from 0.50 to 0.95.
        ap50, ap75: at one overlap.
        small, medium, large: of objects below 32 x 32 pixels, below 96 x 96, and above.
        per_label: the mean of each label that was there to be found.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    small: float | None
    medium: float | None
    large: float | None
    per_label: dict[int, float]


class PrecisionMeter:
    """Collects detections and computes their average precision.

    Args:
        masks: whether masks are measured beside boxes.

    Raises:
        ConfigError: the extra `coco` is not installed.
    """

    def __init__(self, *, masks: bool) -> None:
        require_mask_library()
        from torchmetrics.detection import MeanAveragePrecision

        self._kinds: tuple[Literal["bbox", "segm"], ...] = ("bbox", "segm") if masks else ("bbox",)
        self._members = _IN_MASKS if masks else _IN_BOXES
        self._metric = MeanAveragePrecision(
            iou_type=self._kinds,
            backend="faster_coco_eval",
            extended_summary=True,
            sync_on_compute=False,
        )
        self._metric.warn_on_many_detections = False

    def add(self, detections: Sequence[dict[str, Tensor]], targets: Sequence[Target]) -> None:
        """Count detections of some images.

        Args:
            detections: of each image "boxes" float32 (N, 4), "labels" int64 (N,), "scores" float32
                (N,) and, with masks, "masks" (N, 1, H, W) as probabilities.
            targets: what is in the images, crowds included, of `build_target`.
        """
        found = [{n: _plain(one[n]) for n in self._members} for one in detections]
        wanted = [{n: _plain(value) for n, value in target.items()} for target in targets]
        self._metric.update(found, wanted)

    def gather(self) -> None:
        """Bring together what all processes have counted."""
        for name, own in self._metric.metric_state.items():
            setattr(self._metric, name, list(gather_object(list(own))))

    def compute(self) -> dict[str, AveragePrecision]:
        """The AP of "box" and, with masks, of "mask"."""
        figures = self._metric.compute()
        several = len(self._kinds) > 1
        labels = figures["classes"].reshape(-1).tolist()
        return {
            _KINDS[kind]: _summarize(figures, f"{kind}_" if several else "", labels)
            for kind in self._kinds
        }


def _plain(value: Tensor) -> Tensor:
    """On the CPU; masks as truth values (N, H, W)."""
    if value.ndim == 4:
        value = value[:, 0] > 0.5
    value = value.detach().cpu()
    return value.bool() if value.ndim == 3 else value


def _summarize(figures: dict[str, Any], prefix: str, labels: Sequence[int]) -> AveragePrecision:
    precision = figures[f"{prefix}precision"]  # (overlaps, recalls, labels, sizes, detections)
    if not labels:
        precision = torch.full((1, 1, 0, 1, 1), -1.0)
    per_label = {}
    for place, label in enumerate(labels):
        values = precision[:, :, place, _ALL_SIZES, _MOST_DETECTIONS]
        if (values > -1).any():
            per_label[label] = 100.0 * float(values[values > -1].mean())
    of = {
        name: _percent(figures[f"{prefix}{key}"])
        for name, key in {
            "ap": "map",
            "ap50": "map_50",
            "ap75": "map_75",
            "small": "map_small",
            "medium": "map_medium",
            "large": "map_large",
        }.items()
    }
    return AveragePrecision(**of, per_label=per_label)


def _percent(value: Tensor) -> float | None:
    """Percent; None for -1, COCO's mark of nothing to find."""
    return None if float(value) < 0 else 100.0 * float(value)
