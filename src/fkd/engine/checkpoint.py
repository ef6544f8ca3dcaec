"""Checkpoints: everything a run needs to resume as if it had never stopped.

    RUN/checkpoints/step-00000120.pt      tensors and numbers, written by torch.save
    RUN/checkpoints/step-00000120.json    {"step", "sha256", "bytes", "settings"}: makes it valid

A checkpoint counts when its .json is there and the .pt has its checksum; the newest valid one is
used, so a torn or damaged file costs the time since the one before. Two are kept. Nothing but
tensors and plain values is unpickled (`weights_only`), and not before the checksum was compared.
"""

import hashlib
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fkd.engine.durable import replace_file, replace_text
from fkd.errors import RunError

_KEPT = 2
State = dict[str, Any]


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run.

    Attributes:
        folder: where they are.
        settings: identifies the run's settings; a checkpoint of other settings is refused.
    """

    folder: Path
    settings: str

    def save(self, step: int, state: State) -> None:
        """Write the state after `step` steps, then remove all but the newest checkpoints.

        Raises:
            RunError: the disk is full or refuses.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:08}.pt"
        sha256, num_bytes = replace_file(path, lambda file: torch.save(state, file))
        record = {"step": step, "sha256": sha256, "bytes": num_bytes, "settings": self.settings}
        replace_text(path.with_suffix(".json"), json.dumps(record) + "\n")
        for old in self._records()[:-_KEPT]:
            old.unlink()
            old.with_suffix(".pt").unlink(missing_ok=True)

    def load_newest(self) -> State | None:
        """The newest valid state, on the CPU; None where no checkpoint was ever completed.

        Raises:
            RunError: there are checkpoints, but all are damaged; or one has other settings, or
                holds something that torch does not load safely.
        """
        records = self._records()
        for path in reversed(records):
            data = self._read_valid(path)
            if data is not None:
                return _load(data)
        if records:
            raise RunError(
                f"all checkpoints in {self.folder} are damaged; delete that folder to train again "
                "from the start"
            )
        return None

    def _records(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.json"))

    def _read_valid(self, record_path: Path) -> Path | None:
        """The checkpoint's file, or None if it is damaged."""
        path = record_path.with_suffix(".pt")
        try:
            record = json.loads(record_path.read_bytes())
            with open(path, "rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError):
            return None
        if not isinstance(record, dict) or record.get("sha256") != sha256:
            return None
        if record.get("settings") != self.settings:
            raise RunError(
                f"{path} belongs to a run with other settings; give another --out, or delete "
                f"{self.folder}"
            )
        return path


def _load(path: Path) -> State:
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RunError(f"{path} holds more than tensors and plain values; delete it") from error
    return state
