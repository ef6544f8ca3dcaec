"""fkd: label once, train any number of students from the labels.

The names below are the public interface; everything else may move. They are imported when first
used, so that `import fkd` costs milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fkd.crops.augment import AugmentConfig
    from fkd.crops.replay import replay, sample_crops
    from fkd.crops.sampling import CropConfig
    from fkd.data.multicrop import MultiCropDataset, collate_crops
    from fkd.data.sources import ImagesConfig, open_source
    from fkd.errors import FKDError
    from fkd.evaluation.evaluate import EvalConfig, evaluate
    from fkd.evaluation.probe import ProbeConfig, probe
    from fkd.labels.binary_losses import soft_binary_cross_entropy
    from fkd.labels.codec_names import parse_codec
    from fkd.labels.codecs import Full, Hard, Logits, MarginalRenorm, MarginalSmoothing, Smoothing
    from fkd.labels.losses import SoftTargetLoss, soft_cross_entropy
    from fkd.labels.targets import SoftTargets
    from fkd.library import label, verify
    from fkd.models.modules import TeacherModule
    from fkd.models.teacher import TeacherConfig, load_teachers
    from fkd.store import LabelStore, verify_store
    from fkd.training.config import TrainConfig
    from fkd.training.run import train

_MODULES = {
    "fkd.crops.augment": "AugmentConfig",
    "fkd.crops.replay": "replay sample_crops",
    "fkd.crops.sampling": "CropConfig",
    "fkd.data.multicrop": "MultiCropDataset collate_crops",
    "fkd.data.sources": "ImagesConfig open_source",
    "fkd.errors": "FKDError",
    "fkd.evaluation.evaluate": "EvalConfig evaluate",
    "fkd.evaluation.probe": "ProbeConfig probe",
    "fkd.labels.binary_losses": "soft_binary_cross_entropy",
    "fkd.labels.codec_names": "parse_codec",
    "fkd.labels.codecs": "Full Hard Logits MarginalRenorm MarginalSmoothing Smoothing",
    "fkd.labels.losses": "SoftTargetLoss soft_cross_entropy",
    "fkd.labels.targets": "SoftTargets",
    "fkd.library": "label verify",
    "fkd.models.modules": "TeacherModule",
    "fkd.models.teacher": "TeacherConfig load_teachers",
    "fkd.store": "LabelStore verify_store",
    "fkd.training.config": "TrainConfig",
    "fkd.training.run": "train",
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = [
    "AugmentConfig",
    "CropConfig",
    "EvalConfig",
    "FKDError",
    "Full",
    "Hard",
    "ImagesConfig",
    "LabelStore",
    "Logits",
    "MarginalRenorm",
    "MarginalSmoothing",
    "MultiCropDataset",
    "ProbeConfig",
    "Smoothing",
    "SoftTargetLoss",
    "SoftTargets",
    "TeacherConfig",
    "TeacherModule",
    "TrainConfig",
    "collate_crops",
    "evaluate",
    "label",
    "load_teachers",
    "open_source",
    "parse_codec",
    "probe",
    "replay",
    "sample_crops",
    "soft_binary_cross_entropy",
    "soft_cross_entropy",
    "train",
    "verify",
    "verify_store",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module; the version is that of the installed package."""
    if name == "__version__":
        from importlib.metadata import version

        return version("fkd")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'fkd' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
