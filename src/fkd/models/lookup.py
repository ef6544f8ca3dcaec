"""The model that a user means by a word: the folder of a finished run, or a network's name."""

import difflib
import os
from pathlib import Path
from typing import Any

import timm

from fkd.errors import ConfigError
from fkd.models.checkpoints import FILES, MODEL_FILE, PARTS
from fkd.models.names import parse_model_name, torchvision_names
from fkd.models.zoo import LoadedModel, load_model
from fkd.userfiles import home_path

_ALIKE = 0.8  # of two names; resnet5 and resnet50 are, run and gernet_s are not


def find_model(model: str, checkpoint: str | None = None, **options: Any) -> LoadedModel:
    """The model of a folder; or of a name, with its pretrained weights or those of a checkpoint.

    Args:
        model: folder of a finished run; or a timm model, or "torchvision/NAME".
        checkpoint: weights for the named model; by default its pretrained ones.
        options: as for `load_model`.

    Raises:
        ConfigError: there is no such model, or its weights cannot be obtained or do not fit.
    """
    folder = home_path(model)
    if folder.is_dir():
        if checkpoint is not None:
            raise ConfigError(
                f"checkpoint: {model} is a folder that has its own weights; leave the checkpoint "
                "out, or give the name of a network with it"
            )
        _require_weights(folder)
        return load_model(checkpoint=str(folder), **options)
    _require_name(model)
    return load_model(model, pretrained=checkpoint is None, checkpoint=checkpoint, **options)


def find_backbone(model: str, checkpoint: str | None = None, **options: Any) -> LoadedModel:
    """The same without a classifier or projection head, which the weights may have or lack.

    Args:
        model: as for `find_model`.
        checkpoint: likewise.
        options: as for `load_model`, but for `num_classes` and `headless`.

    Raises:
        ConfigError: as `find_model`.
    """
    return find_model(model, checkpoint, headless=True, **options)


def _require_weights(folder: Path) -> None:
    """Refuse a folder that is of no model, or of a run that is not finished.

    Raises:
        ConfigError: says so of the model; the user gave no checkpoint.
    """
    if not any((folder / name).is_file() for name in FILES) and not any(folder.glob(PARTS)):
        raise ConfigError(
            f"model: folder {folder} has no {MODEL_FILE}; give the folder of a finished run, or a "
            "model name"
        )


def _require_name(model: str) -> None:
    """Refuse what is neither a folder nor the name of a network.

    Raises:
        ConfigError: says both.
    """
    try:
        parse_model_name(model)
    except ConfigError as error:
        known = [*timm.list_models(), *(f"torchvision/{name}" for name in torchvision_names())]
        architecture = model.partition(".")[0]
        is_file = os.path.isfile(home_path(model))
        if is_file or difflib.get_close_matches(architecture, known, n=1, cutoff=_ALIKE):
            raise
        raise ConfigError(
            f"model: there is no folder {model} here, and no network of that name; give the "
            "folder of a finished run, a timm model, or torchvision/NAME"
        ) from error
