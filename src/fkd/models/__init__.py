"""Networks: students and teachers by name or from a file, and what their inputs and classes mean.

The names below are imported when first used: class names alone do not need torch or timm.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fkd.models.classes import display_names
    from fkd.models.preprocessing import Preprocessing
    from fkd.models.teacher import TeacherConfig, TeacherEnsemble, load_teachers
    from fkd.models.zoo import build_model, load_model

_HOME_OF = {
    "Preprocessing": "fkd.models.preprocessing",
    "TeacherConfig": "fkd.models.teacher",
    "TeacherEnsemble": "fkd.models.teacher",
    "build_model": "fkd.models.zoo",
    "display_names": "fkd.models.classes",
    "load_model": "fkd.models.zoo",
    "load_teachers": "fkd.models.teacher",
}

__all__ = [
    "Preprocessing",
    "TeacherConfig",
    "TeacherEnsemble",
    "build_model",
    "display_names",
    "load_model",
    "load_teachers",
]


def __getattr__(name: str) -> Any:
    """Import a name from the module it lives in."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'fkd.models' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
