"""ReLabel: fresh crops against labels that are pooled from one map of labels of each image.

Source: Re-labeling ImageNet (Yun et al., CVPR 2021); the baseline of FKD (Shen and Xing, ECCV
2022), Table 3. Pooling is done where batches are loaded: `fkd.data.maps`, `fkd.labels.pooling`.
"""

from dataclasses import dataclass
from typing import ClassVar

from fkd.methods.method import CropSourceKind, PairedMethod


@dataclass(frozen=True, kw_only=True)
class ReLabelConfig:
    """ReLabel.

    Attributes:
        swap_xy: exchange the axes of the crop boxes where labels are pooled, as the authors' code
            does.
    """

    swap_xy: bool = False


class ReLabel(PairedMethod):
    """Any crop against the part of the map that it covers."""

    summary: ClassVar[str] = "fresh random crops against label maps of the whole images"
    crop_source: ClassVar[CropSourceKind] = "fresh"
    reads_maps: ClassVar[bool] = True
    learns_multi_label: ClassVar[bool] = False  # pooled labels are those of a softmax
    options: ClassVar[str | None] = "relabel"
