"""The public interface: what users import stays importable, and stays cheap."""

import subprocess
import sys

import pytest

import fkd

PUBLIC = [
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


def test_the_public_names_are_frozen():
    """Removing or adding one is a decision: change this list and the changelog together."""
    assert fkd.__all__ == PUBLIC
    assert dir(fkd) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_exists_and_is_documented(name):
    assert getattr(fkd, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'LableStore'"):
        _ = fkd.LableStore


def test_importing_fkd_imports_no_torch():
    code = "import sys, fkd; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_reading_a_store_needs_neither_torchvision_nor_timm():
    """A store must be readable where only numpy and torch are installed."""
    code = (
        "import sys; from fkd.store import LabelStore; "
        "sys.exit('torchvision' in sys.modules or 'timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
