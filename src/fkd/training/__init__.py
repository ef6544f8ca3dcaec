"""Training a student: composes a method, its data and the engine, as a configuration says."""

from fkd.training.config import StudentConfig, TrainConfig
from fkd.training.run import TrainResult, train

__all__ = ["StudentConfig", "TrainConfig", "TrainResult", "train"]
