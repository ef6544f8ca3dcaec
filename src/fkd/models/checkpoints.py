"""Weights in files, read without ever running code from them.

Accepted are `.safetensors`, what `torch.load(weights_only=True)` accepts, and model folders. A
model folder is what a training run leaves behind, and is enough to use its student as a teacher:

    model.safetensors   the weights, in the names of timm or torchvision
    student.json        {"name", "num_classes", "input_size", "interpolation", "mean", "std",
                        "crop_pct", "kwargs"}: a `ModelCard`
    classes.json        a JSON list of the class names in the order of the outputs; may be missing
"""

import argparse
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fkd.errors import ConfigError
from fkd.models.classes import read_class_names
from fkd.models.preprocessing import Preprocessing

MODEL_FILE = "model.safetensors"
CARD_FILE = "student.json"
CLASSES_FILE = "classes.json"

# Where training scripts put the weights; the averaged ones first, as timm does.
_NESTED = ("state_dict_ema", "model_ema", "state_dict", "model")
_WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile


@dataclass(frozen=True)
class ModelCard:
    """What `student.json` says.

    Attributes:
        name: the architecture, as `build_model` takes it.
        num_classes: outputs of the head.
        preprocessing: the input that the weights expect.
        kwargs: further arguments with which the network was built.
    """

    name: str
    num_classes: int
    preprocessing: Preprocessing
    kwargs: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The contents of `student.json`."""
        own = {"name": self.name, "num_classes": self.num_classes, "kwargs": self.kwargs}
        return {**own, **self.preprocessing.to_json()}

    @classmethod
    def from_json(cls, fields: Any) -> "ModelCard":
        """From the contents of `student.json`; fields it does not know are left alone.

        Raises:
            ConfigError: a field is missing or impossible.
        """
        if not isinstance(fields, dict) or not isinstance(fields.get("name"), str):
            raise ConfigError("the model card has no name")
        num_classes, kwargs = fields.get("num_classes"), fields.get("kwargs", {})
        if not isinstance(num_classes, int) or num_classes < 1:
            raise ConfigError(f"the model card has no usable num_classes ({num_classes!r})")
        if not isinstance(kwargs, dict):
            raise ConfigError(f"the model card has no usable kwargs ({kwargs!r})")
        return cls(fields["name"], num_classes, Preprocessing.from_json(fields), kwargs)


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

    Wrapping is undone: "module." before every name, and weights beside other things under
    "state_dict_ema", "state_dict" or "model".

    Raises:
        ConfigError: it is missing, damaged, holds something else than tensors, or its card is bad.
    """
    path = Path(path)
    if not path.exists():
        raise ConfigError(f"checkpoint: {path} does not exist; give a file or a run folder")
    if not path.is_dir():
        return Checkpoint(path, _read_weights(path))
    if not (path / MODEL_FILE).is_file():
        raise ConfigError(f"checkpoint: folder {path} has no {MODEL_FILE}; give a finished run")
    card = _read_card(path / CARD_FILE) if (path / CARD_FILE).exists() else None
    names = read_class_names(path / CLASSES_FILE) if (path / CLASSES_FILE).exists() else None
    if card is not None and names is not None and len(names) != card.num_classes:
        raise ConfigError(
            f"checkpoint: {path / CLASSES_FILE} names {len(names)} classes, but the model has "
            f"{card.num_classes}; restore the run folder"
        )
    return Checkpoint(path / MODEL_FILE, _read_weights(path / MODEL_FILE), card, names)


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over all tensors in the order of their names: name, dtype, shape, bytes."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_weights(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        document = _read_safetensors(path)
    else:
        document = _read_torch(path)
    return _unwrap(document, path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"checkpoint: {path} is no whole safetensors file ({error}); copy it again"
        ) from error
    return state


def _read_torch(path: Path) -> Any:
    try:
        # timm keeps its arguments, a plain Namespace, beside the weights
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # hostile bytes make the unpickler raise nearly anything
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigError(
            f"checkpoint: {path} cannot be read without running code from it ({reason}); "
            "save its state_dict alone, best as .safetensors"
        ) from error


def _unwrap(document: Any, path: Path) -> dict[str, Tensor]:
    for key in _NESTED:
        if isinstance(document, Mapping) and isinstance(document.get(key), Mapping):
            document = document[key]
            break
    if not isinstance(document, Mapping) or not document:
        raise ConfigError(f"checkpoint: {path} holds no weights; save a model's state_dict")
    strange = [name for name, value in document.items() if not isinstance(value, Tensor)]
    if strange:
        raise ConfigError(
            f"checkpoint: {path} holds things that are no tensors ({strange[0]!r}); "
            "save a model's state_dict"
        )
    state = dict(document)
    for prefix in _WRAPPERS * 2:  # either may be outside
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _read_card(path: Path) -> ModelCard:
    try:
        return ModelCard.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigError(f"checkpoint: {path} is no model card ({error})") from error
