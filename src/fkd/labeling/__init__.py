"""The teacher's side: run it once over random crops of all images and store its soft labels."""

from fkd.labeling.audit import ProbeReport, audit_probes, require_agreement
from fkd.labeling.check import (
    audit_store,
    check_images,
    describe_decoder_change,
    load_teachers_of,
)
from fkd.labeling.config import LabelConfig, build_store_config
from fkd.labeling.gate import GateReport, measure_accuracy
from fkd.labeling.generate import LabelResult, Progress, RunStart, label
from fkd.labeling.import_maps import ImportMapsConfig, import_maps
from fkd.labeling.maps import LabelMapsConfig, label_maps
from fkd.labeling.plan import Plan, plan
from fkd.labeling.shift import ShiftReport

__all__ = [
    "GateReport",
    "ImportMapsConfig",
    "LabelConfig",
    "LabelMapsConfig",
    "LabelResult",
    "Plan",
    "ProbeReport",
    "Progress",
    "RunStart",
    "ShiftReport",
    "audit_probes",
    "audit_store",
    "build_store_config",
    "check_images",
    "describe_decoder_change",
    "import_maps",
    "label",
    "label_maps",
    "load_teachers_of",
    "measure_accuracy",
    "plan",
    "require_agreement",
]
