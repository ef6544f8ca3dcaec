"""The networks whose latency stands beside the exported one's: what distillation saves."""

from dataclasses import dataclass

from torch import nn

from fkd.errors import ConfigError
from fkd.export.config import ExportConfig
from fkd.models.lookup import find_model
from fkd.models.preprocessing import Preprocessing
from fkd.models.trial import try_network
from fkd.models.zoo import is_model_folder, load_model
from fkd.store import LabelStore


@dataclass(frozen=True)
class TimedTeacher:
    """A teacher whose outputs do not matter.

    Attributes:
        name: of the network, or its folder.
        model: in eval mode; with random weights, where a name was given.
        expected: its input.
    """

    name: str
    model: nn.Module
    expected: Preprocessing

    @property
    def title(self) -> str:
        """What it is called beside the exported network, which may have the same name."""
        return f"teacher {self.name}"


def load_timed_teachers(config: ExportConfig) -> tuple[list[TimedTeacher], list[str]]:
    """The teachers of the settings, and a sentence on each that a store names in vain.

    Raises:
        FKDError: the teacher that was named cannot be built, or the store cannot be read.
    """
    if config.teacher.name is not None:
        return [_load(config.teacher.name, config.teacher.input_size)], []
    if config.store is None:
        return [], []
    loaded, remarks = [], []
    for facts in LabelStore.open(config.store, partial=True).provenance.teachers:
        try:
            loaded.append(_load(facts.name or "", facts.input_size))
        except ConfigError as error:
            remarks.append(f"a teacher of {config.store} is not timed: {error}")
    return loaded, remarks


def _load(name: str, input_size: int | None) -> TimedTeacher:
    if is_model_folder(name):
        loaded = find_model(name, input_size=input_size)
    else:
        loaded = load_model(name, input_size=input_size)
    try_network(loaded.model, loaded.preprocessing, f"teacher {name}")
    return TimedTeacher(name, loaded.model, loaded.preprocessing)
