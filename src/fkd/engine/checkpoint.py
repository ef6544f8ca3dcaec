"""Checkpoints: everything a run needs to resume as if it had never stopped.

    RUN/checkpoints/step-00000120.pt      tensors and numbers, written by torch.save
    RUN/checkpoints/step-00000120.json    {"step", "sha256", "bytes", "settings"}: makes it valid

A checkpoint counts when its .json is there and the .pt has its checksum; the newest valid one is
used, so a torn or damaged file costs the time since the one before. A file that cannot be read is
not damaged: a disk or a permission can be repaired, so it ends the run instead of costing what was
learned. Two are kept. Nothing but tensors and plain values is unpickled (`weights_only`), and not
before the checksum was compared.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch

from fkd.engine.durable import list_folder, replace_file, replace_text, writing
from fkd.errors import ConfigError, RunError
from fkd.models.weight_files import load_torch
from fkd.userfiles import os_reason

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
        path = self.folder / f"step-{step:08}.pt"
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        sha256, num_bytes = replace_file(path, lambda file: torch.save(state, file))
        record = {"step": step, "sha256": sha256, "bytes": num_bytes, "settings": self.settings}
        replace_text(path.with_suffix(".json"), json.dumps(record) + "\n")
        # Later ones were passed over when the run resumed; they are replaced when it gets there.
        earlier = [other for other in self.records() if other <= path.with_suffix(".json")]
        for old in earlier[:-_KEPT]:
            with writing(old):
                old.unlink()
                _pt(old).unlink(missing_ok=True)

    def load_newest(
        self, warn: Callable[[str], None] = lambda text: None, *, resume_from: Path | None = None
    ) -> State | None:
        """The newest valid state, on the CPU; None where no checkpoint was ever completed.

        Args:
            warn: told of a damaged checkpoint that was passed over.
            resume_from: a checkpoint of this run; newer ones that cannot be read are passed over.

        Raises:
            RunError: one cannot be read, or all are damaged; or one has other settings, or holds
                something that torch does not load safely; or `resume_from` is not among them.
        """
        records = self.records()
        oldest = None if resume_from is None else self._find(resume_from)
        for number, path in reversed(list(enumerate(records))):
            try:
                state = self._load(path)
            except OSError as error:
                if oldest is None or path <= oldest:
                    raise _cannot_read(path, error, records[:number]) from error
                warn(f"{_pt(path)} cannot be read: {os_reason(error)}; passed over as asked")
                continue
            if state is not None:
                return state
            if number > 0:
                warn(f"{_pt(path)} is damaged; training resumes from the checkpoint before")
        if records:
            raise RunError(
                f"all checkpoints in {self.folder} are damaged; delete that folder to train again "
                "from the start"
            )
        return None

    def records(self) -> list[Path]:
        """The files that make checkpoints valid, by step.

        Raises:
            RunError: the folder is there, but cannot be read.
        """
        names = list_folder(self.folder)
        return [
            self.folder / name
            for name in names
            if name.startswith("step-") and name.endswith(".json")
        ]

    def _find(self, path: Path) -> Path:
        wanted, records = self.folder / path.with_suffix(".json").name, self.records()
        if wanted not in records or path.parent.absolute() != self.folder.absolute():
            there = ", ".join(str(_pt(record)) for record in records) or "none"
            raise RunError(f"resume_from: {path} is no checkpoint of this run; it has {there}")
        return wanted

    def _load(self, record: Path) -> State | None:
        """The state that a record stands for, or None if it is damaged.

        Raises:
            OSError: the record or its checkpoint cannot be read.
        """
        text = record.read_bytes()
        with open(_pt(record), "rb") as file:
            if not self._is_valid(record, text, file):
                return None
            file.seek(0)
            return _unpickle(_pt(record), file)

    def _is_valid(self, record: Path, text: bytes, file: BufferedReader) -> bool:
        """Whether a file has the checksum that its record gives.

        Raises:
            RunError: it is whole, but belongs to other settings.
        """
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        try:
            said = json.loads(text)
        except ValueError:
            return False
        if not isinstance(said, dict) or said.get("sha256") != sha256:
            return False
        if said.get("settings") != self.settings:
            raise RunError(
                f"{_pt(record)} belongs to a run with other settings; give another --out, or "
                f"delete {self.folder}"
            )
        return True


def _pt(record: Path) -> Path:
    """The checkpoint of a record."""
    return record.with_suffix(".pt")


def _cannot_read(record: Path, error: OSError, older: Sequence[Path]) -> RunError:
    resume = f", or resume from an older one: --resume_from {_pt(older[-1])}" if older else ""
    return RunError(
        f"{_pt(record)}, the newest checkpoint, cannot be read: {os_reason(error)}; make it "
        f"readable{resume}"
    )


def _unpickle(path: Path, file: BufferedReader) -> State:
    try:
        state: State = load_torch(file, path)
    except ConfigError as error:
        wrapped = error.__cause__.__context__ if error.__cause__ is not None else None
        if isinstance(wrapped, OSError):  # torch's reader turns it into an error of its own
            raise wrapped from error
        raise RunError(f"{path} holds more than tensors and plain values; delete it") from error
    return state
