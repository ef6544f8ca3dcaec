"""The public interface: what users import stays importable, and stays cheap."""

import importlib.resources
import re
import subprocess
import sys
from importlib.metadata import version

import pytest

import fkd
import fkd.models.teacher
from fkd import errors as fkd_errors
from fkd.errors import FKDError

PUBLIC = [
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


def test_the_public_names_are_frozen():
    """Removing or adding one is a decision: change this list and the changelog together."""
    assert fkd.__all__ == PUBLIC
    assert dir(fkd) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_exists_and_is_documented(name):
    assert getattr(fkd, name).__doc__


def test_the_version_is_that_of_the_package():
    assert fkd.__version__ == version("fkd")
    assert re.match(r"\d+\.\d+", fkd.__version__)


def test_type_checkers_may_read_the_package():
    """Without this marker (PEP 561) they ignore all annotations of an installed package."""
    assert importlib.resources.files("fkd").joinpath("py.typed").is_file()


def test_the_tree_of_errors_shows_all_of_them():
    shown = re.findall(r"(\w+) {2,}\S|^ {4}(\w+)$", fkd_errors.__doc__, re.MULTILINE)
    names = {name or root for name, root in shown}
    assert names == {error.__name__ for error in [FKDError, *all_subclasses(FKDError)]}


def all_subclasses(error: type) -> list[type]:
    below = [s for s in error.__subclasses__() if s.__module__.startswith("fkd")]
    return below + [deeper for direct in below for deeper in all_subclasses(direct)]


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
