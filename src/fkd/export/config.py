"""The settings of an export."""

from dataclasses import KW_ONLY, dataclass, field
from typing import Literal, get_args

from fkd.checks import refuse_unused, require_one_of, require_positive, require_whole
from fkd.data.sources import ImagesConfig
from fkd.errors import ConfigError
from fkd.userfiles import home_path, settle_paths

ExportFormat = Literal["onnx", "pt2"]


@dataclass(frozen=True, kw_only=True)
class TeacherToTime:
    """A network whose latency stands beside the exported one's.

    Attributes:
        name: a timm model, "torchvision/NAME", or a model folder; null times none. Of a name no
            weights are needed.
        input_size: side of its crops, pixels; by default its own.
    """

    name: str | None = None
    input_size: int | None = None

    def __post_init__(self) -> None:
        require_whole(1, "teacher.input_size", self.input_size)
        settle_paths(self, "name")
        if self.name is None:
            refuse_unused(self, ["input_size"], prefix="teacher.", user="no teacher.name")


@dataclass(frozen=True, kw_only=True)
class LatencyConfig:
    """How latency is measured.

    Attributes:
        batch_sizes: crops in a forward pass.
        runs: forward passes that are timed for each figure; 0 measures no latency.
        seconds: when a figure takes longer it has fewer runs, but at least 3.
    """

    batch_sizes: tuple[int, ...] = (1, 32)
    runs: int = 50
    seconds: float = 10.0

    def __post_init__(self) -> None:
        require_whole(0, "latency.runs", self.runs)
        require_positive("latency.seconds", self.seconds)
        for size in self.batch_sizes:
            require_whole(1, "latency.batch_sizes", size)


@dataclass(frozen=True)
class ExportConfig:
    """An export.

    Attributes:
        model: folder of a finished run; or a timm model, or "torchvision/NAME".
        out: the file to write, such as student.onnx; a report in JSON is written beside it.
        format: onnx, which onnxruntime and others run; or pt2, which torch.export.load reads.
        checkpoint: weights for the named model; by default its pretrained ones.
        class_names: a file with the names of the outputs (JSON list, or one per line), where they
            are not known.
        input_size: side of the crops, pixels; by default the model's own.
        normalize: put the normalization into the file, which then takes uint8 crops.
        softmax: put the softmax into the file, which then gives probabilities.
        images: images whose center crops are compared; by default crops of noise.
        teacher: a network to time beside the exported one.
        store: a label store, whose teachers are timed instead.
        latency: how latency is measured.
        overwrite: replace a file at that place that is no export of fkd.

    Example:
        >>> from fkd.export.config import ExportConfig
        >>> ExportConfig("run", out="student.onnx").latency.batch_sizes
        (1, 32)
    """

    model: str
    _: KW_ONLY
    out: str
    format: ExportFormat = "onnx"
    checkpoint: str | None = None
    class_names: str | None = None
    input_size: int | None = None
    normalize: bool = False
    softmax: bool = False
    images: ImagesConfig | None = None
    teacher: TeacherToTime = field(default_factory=TeacherToTime)
    store: str | None = None
    latency: LatencyConfig = field(default_factory=LatencyConfig)
    overwrite: bool = False

    def __post_init__(self) -> None:
        require_one_of(ExportFormat, "format", self.format)
        require_whole(1, "input_size", self.input_size)
        settle_paths(self, "model", "out", "checkpoint", "class_names", "store")
        suffix = home_path(self.out).suffix.lstrip(".")
        if suffix in get_args(ExportFormat) and suffix != self.format:
            raise ConfigError(
                f"out: {self.out} is named as a file of format {suffix}, and format is "
                f"{self.format}; give --format {suffix}, or another name"
            )
        if self.teacher.name is not None and self.store is not None:
            raise ConfigError(
                f"teacher.name: the teachers of {self.store} are timed already; leave one of "
                "teacher.name and store out"
            )
