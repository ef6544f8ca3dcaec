"""A linear classifier in training, kept after every epoch, so that a killed evaluation resumes.

FOLDER/classifier-3f2a....safetensors
    weight, bias                         of the classifier
    momentum.weight, momentum.bias       of its optimizer
    metadata    epochs that are done, and the identity of the training
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from fkd.evaluation.features import replace_file

_IDENTITY, _EPOCHS = "fkd.identity", "fkd.epochs"
_BUFFER = "momentum_buffer"  # what both optimizers call it


@dataclass(frozen=True)
class ClassifierState:
    """Where a classifier is kept, and of which training it is.

    Attributes:
        folder: of the file.
        members: everything that the training depends on, as values of JSON.
    """

    folder: Path
    members: Mapping[str, Any]

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the members."""
        return hashlib.sha256(json.dumps(self.members, sort_keys=True).encode()).hexdigest()

    @property
    def file(self) -> Path:
        """The file."""
        return self.folder / f"classifier-{self.identity[:16]}.safetensors"

    def restore(self, classifier: nn.Linear, optimizer: torch.optim.Optimizer) -> int:
        """Put back what was kept; returns the epochs that are done, 0 where nothing was."""
        try:
            with safe_open(self.file, "pt") as opened:
                found: dict[str, str] = opened.metadata() or {}
                if found.get(_IDENTITY) != self.identity:
                    return 0
                kept = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):  # absent or damaged
            return 0
        with torch.no_grad():
            for name, parameter in classifier.named_parameters():
                parameter.copy_(kept[name])
                buffer = kept[f"momentum.{name}"].to(parameter.device)
                optimizer.state[parameter][_BUFFER] = buffer
        return int(found[_EPOCHS])

    def keep(self, classifier: nn.Linear, optimizer: torch.optim.Optimizer, epochs: int) -> None:
        """Replace what was kept.

        Raises:
            RunError: the disk is full or refuses.
        """
        tensors: dict[str, Tensor] = {}
        for name, parameter in classifier.named_parameters():
            tensors[name] = parameter.detach().cpu()
            tensors[f"momentum.{name}"] = optimizer.state[parameter][_BUFFER].cpu()
        metadata = {_IDENTITY: self.identity, _EPOCHS: str(epochs)}
        replace_file(self.file, save(tensors, metadata))
