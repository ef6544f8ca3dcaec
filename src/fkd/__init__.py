"""fkd: teacher labels once, students for ever.

The names below are the public interface; everything else may move. They are imported when first
used, so that `import fkd` costs milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fkd.crops.augment import AugmentConfig
    from fkd.crops.replay import replay, sample_crops
    from fkd.crops.sampling import CropConfig
    from fkd.data import ImagesConfig, MultiCropDataset, collate_crops, open_source
    from fkd.errors import FKDError
    from fkd.labeling import LabelConfig, label
    from fkd.labels.codec_names import parse_codec
    from fkd.labels.codecs import Full, Hard, Logits, MarginalRenorm, MarginalSmoothing, Smoothing
    from fkd.labels.losses import SoftTargetLoss, soft_cross_entropy
    from fkd.labels.targets import SoftTargets
    from fkd.models import TeacherConfig, load_teachers
    from fkd.store import LabelStore, verify_store
    from fkd.training import TrainConfig, train

_HOMES = {
    "fkd.crops.augment": ["AugmentConfig"],
    "fkd.labels.codec_names": ["parse_codec"],
    "fkd.labels.codecs": [
        "Full",
        "Hard",
        "Logits",
        "MarginalRenorm",
        "MarginalSmoothing",
        "Smoothing",
    ],
    "fkd.crops.replay": ["replay", "sample_crops"],
    "fkd.data": ["ImagesConfig", "MultiCropDataset", "collate_crops", "open_source"],
    "fkd.errors": ["FKDError"],
    "fkd.labeling": ["LabelConfig", "label"],
    "fkd.labels.losses": ["SoftTargetLoss", "soft_cross_entropy"],
    "fkd.models": ["TeacherConfig", "load_teachers"],
    "fkd.crops.sampling": ["CropConfig"],
    "fkd.store": ["LabelStore", "verify_store"],
    "fkd.labels.targets": ["SoftTargets"],
    "fkd.training": ["TrainConfig", "train"],
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AugmentConfig",
    "CropConfig",
    "FKDError",
    "Full",
    "Hard",
    "ImagesConfig",
    "LabelConfig",
    "LabelStore",
    "Logits",
    "MarginalRenorm",
    "MarginalSmoothing",
    "MultiCropDataset",
    "Smoothing",
    "SoftTargetLoss",
    "SoftTargets",
    "TeacherConfig",
    "TrainConfig",
    "collate_crops",
    "label",
    "load_teachers",
    "open_source",
    "parse_codec",
    "replay",
    "sample_crops",
    "soft_cross_entropy",
    "train",
    "verify_store",
]


def __getattr__(name: str) -> Any:
    """Import a public name from the module it lives in."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'fkd' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
