"""The teacher's side: run it once over random crops of all images and store its soft labels."""

from fkd.labeling.accuracy_check import TeacherAccuracy, measure_accuracy
from fkd.labeling.config import LabelConfig, LabelMapsConfig, LabelRunConfig
from fkd.labeling.estimate import CostEstimate, plan
from fkd.labeling.import_maps import ImportMapsConfig, import_maps
from fkd.labeling.precision_impact import PrecisionImpact
from fkd.labeling.run import LabelResult, Progress, RunStart, label, label_maps
from fkd.labeling.store_checks import (
    SpotCheckReport,
    check_images,
    describe_decoder_change,
    load_teachers_of,
    require_agreement,
    spot_check,
)

__all__ = [
    "CostEstimate",
    "ImportMapsConfig",
    "LabelConfig",
    "LabelMapsConfig",
    "LabelResult",
    "LabelRunConfig",
    "PrecisionImpact",
    "Progress",
    "RunStart",
    "SpotCheckReport",
    "TeacherAccuracy",
    "check_images",
    "describe_decoder_change",
    "import_maps",
    "label",
    "label_maps",
    "load_teachers_of",
    "measure_accuracy",
    "plan",
    "require_agreement",
    "spot_check",
]
