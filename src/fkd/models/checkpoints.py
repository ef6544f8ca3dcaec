"""Checkpoints: a file of weights, or a model folder that also says what the weights are of.

A model folder is what a training run leaves behind, what timm or transformers save, and is enough
to use its network as a teacher:

    model.safetensors   the weights, in the names of timm or torchvision; or pytorch_model.bin
    config.json         the network, its input, the names of its classes: see `fkd.models.cards`

Files are read by `fkd.models.weight_files` without running code from them.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fkd.errors import ConfigError
from fkd.models.cards import ModelCard, is_described, read_card
from fkd.models.state_dicts import unwrap
from fkd.models.weight_files import read_weight_file
from fkd.userfiles import home_path, os_reason

MODEL_FILE = "model.safetensors"
FILES = (MODEL_FILE, "pytorch_model.bin")
"""What the weights in a model folder may be called."""

PARTS = "*.index.json"
"""What lists weights in several files, which cannot be read."""


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint.

    Attributes:
        path: the file, for messages.
        state: tensors by parameter name, on the CPU.
        card: what a model folder says about its model, or None.
        class_names: what a model folder calls its classes, or None.
    """

    path: Path
    state: dict[str, Tensor]
    card: ModelCard | None = None
    class_names: list[str] | None = None


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint file or a model folder.

    Wrapping is undone (see `fkd.models.state_dicts`). A file of a model folder is the same as the
    folder: what lies beside it describes it.

    Raises:
        ConfigError: it is missing, damaged, holds something else than tensors, or its card is bad.
    """
    path = home_path(path)
    try:
        is_folder = path.is_dir()
        path.lstat()
    except FileNotFoundError as error:
        raise ConfigError(
            f"checkpoint: {path} does not exist; give a file or a run folder"
        ) from error
    except OSError as error:
        raise ConfigError(f"checkpoint: {path} cannot be read: {os_reason(error)}") from error
    file = _file_of(path) if is_folder else path
    described = is_folder or (file.name in FILES and is_described(file.parent))
    card, names = read_card(file.parent) if described else (None, None)
    return Checkpoint(file, unwrap(read_weight_file(file), f"checkpoint: {file}"), card, names)


def _file_of(folder: Path) -> Path:
    """The weights in a model folder."""
    for name in FILES:
        if (folder / name).is_file():
            return folder / name
    parts = sorted(folder.glob(PARTS))
    if parts:
        raise ConfigError(
            f"checkpoint: the weights in {folder} are in several files ({parts[0].name}); save "
            f"them as one {MODEL_FILE}"
        )
    raise ConfigError(
        f"checkpoint: folder {folder} has no {MODEL_FILE}; give a finished run or a file"
    )


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over all tensors in the order of their names: name, dtype, shape, bytes."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
