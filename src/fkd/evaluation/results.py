"""Results of evaluations, and the JSON file that they are kept in.

    {"format": "fkd results 1",
     "calibration": {"bins": 15, "norm": "l1"},
     "results": [{"model": "run", "set": "val", "top1": 71.3, ..., "identity": {...}}, ...]}

A result names what it depends on (`identity`): weights, input, images and what is right for them.
One that is there already is used again if all of that is the same.
"""

import json
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from fkd.errors import ConfigError
from fkd.evaluation.features import replace_file
from fkd.evaluation.metrics import CALIBRATION_BINS, CALIBRATION_NORM
from fkd.userfiles import os_reason

FORMAT = "fkd results 1"

_FIGURES = ("top1", "top5", "mean_class_top1", "calibration_error", "agreement", "divergence")
_LATER_FIGURES = ("mean_ap", "micro_f1", "macro_f1")  # older files lack them


@dataclass(frozen=True)
class ClassResult:
    """One class.

    Attributes:
        name: of the class.
        num_images: images of it.
        top1: share of them that are predicted right, percent; None where images have several.
        average_precision: percent; where images have several classes, else None.
    """

    name: str
    num_images: int
    top1: float | None
    average_precision: float | None = None


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """A model on a set; None where something cannot be measured.

    Attributes:
        model: as the user calls it.
        set: likewise.
        network: its name.
        num_classes: outputs of the model that are ranked.
        root: where the images are.
        kind: of the set.
        num_images: images that count.
        num_left_out: images that do not.
        reason: why they do not.
        top1: share of images whose most probable class is right, percent.
        top5: among the five most probable ones, percent.
        mean_class_top1: mean of the classes' top-1, percent.
        calibration_error: expected calibration error, percent.
        teacher: the one that is compared with, as the user calls it: name and checkpoint.
        num_shared_classes: that model and teacher are compared on.
        agreement: share of images whose most probable class is the same, percent.
        divergence: mean of KL(teacher || model), nats.
        seconds: that the pass took.
        classes: those that have images.
        identity: what all of this depends on.
        mean_ap: mean average precision of the classes that have images, percent; where images have
            several classes each.
        micro_f1: of probabilities of 1/2 or more, over all classes together, percent.
        macro_f1: likewise, mean of the classes that have images.
        num_absent_classes: of the model, that no image has, and that are in no mean.
    """

    model: str
    set: str
    network: str
    num_classes: int
    root: str
    kind: str
    num_images: int
    num_left_out: int
    reason: str
    top1: float | None
    top5: float | None
    mean_class_top1: float | None
    calibration_error: float | None
    teacher: str | None
    num_shared_classes: int | None
    agreement: float | None
    divergence: float | None
    seconds: float
    classes: list[ClassResult]
    identity: dict[str, Any]
    mean_ap: float | None = None
    micro_f1: float | None = None
    macro_f1: float | None = None
    num_absent_classes: int | None = None

    @property
    def place(self) -> tuple[str, str, str | None]:
        """What there is one result of in a file."""
        return self.model, self.set, self.teacher


@dataclass(frozen=True)
class ResultsFile:
    """A file of results, which may not exist yet; None for none at all."""

    path: Path | None

    def read(self) -> list[EvalResult]:
        """All results; none where there is no file.

        Raises:
            ConfigError: the file cannot be read, or holds something else.
        """
        if self.path is None:
            return []
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                raise ConfigError(f"out: {self.path} is no file; give one, e.g. results.json")
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(
                f"out: {self.path} cannot be read: {os_reason(error)}; give another --out"
            ) from error
        except UnicodeDecodeError as error:
            raise self._refusal("it is no text") from error
        try:
            document = json.loads(text)
            if document["format"] != FORMAT:
                raise self._refusal(f"its format is {document['format']!r}")
            return [_from_json(entry) for entry in document["results"]]
        except ConfigError:
            raise
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise self._refusal(str(error) or type(error).__name__) from error

    def add(self, result: EvalResult) -> None:
        """Put a result into the file, in the place of one of the same model, set and teacher.

        The file is read again, so results that another command has added in between are kept.

        Raises:
            RunError: it cannot be written.
        """
        if self.path is None:
            return
        others = [other for other in self.read() if other.place != result.place]
        self._write([*others, result])

    def prepare(self) -> None:
        """Make sure, before hours are spent, that the file can be written.

        Raises:
            ConfigError: as `read`.
            RunError: it cannot be written.
        """
        if self.path is not None:
            self._write(self.read())

    def _write(self, results: Iterable[EvalResult]) -> None:
        assert self.path is not None
        document = {
            "format": FORMAT,
            "calibration": {"bins": CALIBRATION_BINS, "norm": CALIBRATION_NORM},
            "results": [asdict(result) for result in results],
        }
        replace_file(self.path, (json.dumps(document, indent=1) + "\n").encode())

    def _refusal(self, reason: str) -> ConfigError:
        return ConfigError(
            f"out: {self.path} is there already and holds no results of `fkd eval` ({reason}); "
            "give another --out, or remove it"
        )


def find_result(
    results: Sequence[EvalResult], identity: dict[str, Any], place: tuple[str, str, str | None]
) -> EvalResult | None:
    """The result that depends on just that; the one of the same name before others."""
    equal = [result for result in results if result.identity == identity]
    named = [result for result in equal if result.place == place]
    return next(iter([*named, *equal]), None)


def _from_json(entry: Any) -> EvalResult:
    """A result as `add` has written it.

    Raises:
        TypeError: it is none.
        KeyError: likewise.
    """
    if not isinstance(entry, dict):
        raise TypeError(f"{entry!r} is no result")
    for name in _FIGURES:
        if not isinstance(entry[name], int | float | None):
            raise TypeError(f"{name} is {entry[name]!r}")
    for name in _LATER_FIGURES:
        if not isinstance(entry.get(name), int | float | None):
            raise TypeError(f"{name} is {entry[name]!r}")
    known = {field.name for field in fields(EvalResult)}
    values = {name: value for name, value in entry.items() if name in known}
    values["classes"] = [ClassResult(**of_one) for of_one in entry["classes"]]
    return EvalResult(**values)
