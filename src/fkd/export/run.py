"""An export: load, capture, compare, write, time.

Nothing is written before the file, still in memory, has given what the network gives.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fkd.data.canary import cpu_name
from fkd.engine.durable import replace_file
from fkd.errors import ConfigError
from fkd.export.comparison import TOLERANCE, Comparison, compare, load_crops
from fkd.export.config import ExportConfig, ExportFormat
from fkd.export.cost import Latency, Size, measure_latency, measure_size
from fkd.export.formats import FORMATS, MARK, Exported, Run
from fkd.export.network import ExportedInterface, ExportedNetwork
from fkd.export.teachers import TimedTeacher, load_timed_teachers
from fkd.models.architectures.embedders import Embedder
from fkd.models.checkpoints import weights_sha256
from fkd.models.classes import numbered_classes, read_class_names
from fkd.models.lookup import find_model
from fkd.models.trial import try_network
from fkd.models.zoo import LoadedModel
from fkd.userfiles import home_path, os_reason

_PACKAGES: dict[ExportFormat, tuple[str, ...]] = {
    "onnx": ("fkd", "torch", "timm", "onnx", "onnxscript", "onnxruntime"),
    "pt2": ("fkd", "torch", "timm"),
}
_AGAIN = "run the same command again"


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an export wrote and measured.

    Attributes:
        path: the file.
        format: of it.
        num_bytes: its size.
        sha256: of its bytes.
        network: name of the network.
        outputs: what it gives: logits, probabilities or embeddings.
        num_outputs: how many of each crop; None where that is not asked for.
        preprocessing: as it is written into the file.
        format_versions: of the format, such as ONNX's operator set.
        comparison: with torch.
        sizes: of the network, and of each "teacher NAME".
        latencies: on this machine.
        threads: of each forward pass.
        cpu: of this machine.
        versions: of the libraries.
    """

    path: Path
    format: ExportFormat
    num_bytes: int
    sha256: str
    network: str
    outputs: str
    num_outputs: int
    preprocessing: dict[str, Any]
    format_versions: dict[str, int]
    comparison: Comparison
    sizes: dict[str, Size]
    latencies: list[Latency]
    threads: int
    cpu: str
    versions: dict[str, str]

    @property
    def report_path(self) -> Path:
        """The report beside the file."""
        return report_beside(self.path)

    def to_json(self) -> dict[str, Any]:
        """The contents of the report."""
        compared = asdict(self.comparison) | {
            "relative_difference": self.comparison.relative_difference,
            "tolerance": TOLERANCE,
        }
        return {**asdict(self), "path": self.path.name, "comparison": compared}


class ExportProgress:
    """Is told how an export goes; this one says nothing."""

    def remark(self, text: str) -> None:
        """What the user may want to know, a sentence."""

    def begin(self, total: int) -> None:
        """Everything that can be refused early was accepted; so many stages follow."""

    def stage(self, what: str) -> None:
        """Another of them begins."""


def export(config: ExportConfig, progress: ExportProgress | None = None) -> ExportReport:
    """Write a network as one file, after its outputs were compared; then time it.

    Raises:
        FKDError: a setting cannot work, the network cannot be exported or gives other outputs then,
            or the file cannot be written.
    """
    progress = progress or ExportProgress()
    chosen = FORMATS[config.format]
    chosen.require()
    target = _accept_target(config, chosen.is_ours)
    loaded = find_model(config.model, config.checkpoint, input_size=config.input_size)
    model = loaded.model
    try_network(model, loaded.preprocessing, f"model {loaded.name}")
    interface = _interface(config, loaded)
    crops, kind = load_crops(config.images, loaded.preprocessing)
    teachers, remarks = load_timed_teachers(config)
    for remark in remarks:
        progress.remark(remark)
    progress.begin(2 + _count_figures(config, len(teachers)))

    progress.stage(f"exporting {loaded.name}")
    network = ExportedNetwork(
        model, loaded.preprocessing, normalize=config.normalize, softmax=config.softmax
    )
    exported = chosen.export(network, interface, _metadata(loaded, interface))
    progress.stage("comparing")
    run = exported.open()
    comparison = compare(run, model, interface, crops, kind)
    _write(target, exported.data)
    report = ExportReport(
        path=target,
        format=config.format,
        num_bytes=len(exported.data),
        sha256=hashlib.sha256(exported.data).hexdigest(),
        network=loaded.name,
        outputs=interface.output_name,
        num_outputs=int(run(interface.noise(1)).shape[1]),
        preprocessing=interface.describe(),
        format_versions=exported.versions,
        comparison=comparison,
        sizes=_measure_sizes(loaded, teachers),
        latencies=_measure_latencies(config, exported, run, loaded, interface, teachers, progress),
        threads=torch.get_num_threads(),
        cpu=cpu_name(),
        versions={name: version(name) for name in _PACKAGES[config.format]},
    )
    text = json.dumps(report.to_json(), indent=2) + "\n"
    _write(report.report_path, text.encode())
    return report


def report_beside(path: Path) -> Path:
    """The report of an exported file: student.onnx.json of student.onnx."""
    return path.with_name(f"{path.name}.json")


def _accept_target(config: ExportConfig, is_ours: Callable[[Path], bool]) -> Path:
    """The file to write.

    Raises:
        ConfigError: it cannot be written, or is there and no export of fkd.
    """
    target = home_path(config.out)
    if target.is_dir():
        raise ConfigError(
            f"out: {target} is a folder; give the file to write, such as "
            f"{target / f'student.{config.format}'}"
        )
    beside = report_beside(target)
    if beside.is_dir():
        raise ConfigError(
            f"out: the report would be written to {beside}, which is a folder; give another file"
        )
    for path, is_known in ((target, is_ours), (beside, _is_report)):
        # Only of a regular file: a device may have no end.
        is_own = path.is_file() and is_known(path)
        if os.path.lexists(path) and not config.overwrite and not is_own:
            raise ConfigError(
                f"out: {path} is there and was not written by `fkd export --format "
                f"{config.format}`; give another file, or --overwrite"
            )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"out: {target.parent} cannot be made: {os_reason(error)}; give another file"
        ) from error
    if not os.access(target.parent, os.W_OK):
        raise ConfigError(f"out: {target.parent} cannot be written to; give another file")
    return target


def _is_report(path: Path) -> bool:
    """Whether a file is the report of an export."""
    try:
        members = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(members, dict) and {"num_bytes", "comparison", "latencies"} <= set(members)


def _interface(config: ExportConfig, loaded: LoadedModel) -> ExportedInterface:
    """Names and kinds of what goes in and comes out.

    Raises:
        ConfigError: embeddings have neither names nor a softmax, multi-label outputs no softmax, or
            the names do not fit.
    """
    embeds = loaded.num_classes == 0 or isinstance(loaded.model, Embedder)
    for option in ("softmax", "class_names"):
        if embeds and getattr(config, option):
            raise ConfigError(
                f"{option}: {config.model} gives embeddings, which are no classes; leave it out"
            )
    if config.softmax and loaded.multi_label:
        raise ConfigError(
            f"softmax: {config.model} has learned each class by itself, and a softmax of its "
            "logits means nothing; leave it out, and apply a sigmoid to what the file gives"
        )
    names: list[str] = []
    if not embeds:
        names = loaded.class_names or numbered_classes(loaded.num_classes)
    if config.class_names is not None:
        names = read_class_names(config.class_names)
        if len(names) != loaded.num_classes:
            raise ConfigError(
                f"class_names: {config.class_names} names {len(names)} classes, but {config.model} "
                f"has {loaded.num_classes}; give one name per output"
            )
    return ExportedInterface(loaded.preprocessing, names, config.normalize, config.softmax)


def _metadata(loaded: LoadedModel, interface: ExportedInterface) -> Mapping[str, str]:
    """What is written into the file, JSON by name."""
    origin = {
        "version": version("fkd"),
        "architecture": loaded.name,
        "outputs": interface.output_name,
        "weights_sha256": weights_sha256(loaded.model.state_dict()),
        **({"license": loaded.license} if loaded.license else {}),
    }
    return {
        MARK: json.dumps(origin),
        "preprocessing": json.dumps(interface.describe()),
        **({"class_names": json.dumps(interface.class_names)} if interface.class_names else {}),
    }


def _write(path: Path, data: bytes) -> None:
    replace_file(path, lambda file: file.write(data), _AGAIN)


def _measure_sizes(loaded: LoadedModel, teachers: list[TimedTeacher]) -> dict[str, Size]:
    sizes = {loaded.name: measure_size(loaded.model, loaded.preprocessing)}
    for teacher in teachers:
        sizes[teacher.title] = measure_size(teacher.model, teacher.expected)
    return sizes


def _count_figures(config: ExportConfig, num_teachers: int) -> int:
    if config.latency.runs == 0:
        return 0
    return len(config.latency.batch_sizes) * (2 + num_teachers)


def _measure_latencies(
    config: ExportConfig,
    exported: Exported,
    run: Run,
    loaded: LoadedModel,
    interface: ExportedInterface,
    teachers: list[TimedTeacher],
    progress: ExportProgress,
) -> list[Latency]:
    """Of the file, of the network in torch, and of the teachers, with each batch size."""
    if config.latency.runs == 0:
        return []
    plain = ExportedInterface(loaded.preprocessing, [], normalize=False, softmax=False)
    timed: list[tuple[str, str, Run, ExportedInterface]] = [
        (loaded.name, exported.runtime, run, interface),
        (loaded.name, "torch", _channels_last(loaded.model), plain),
    ]
    for teacher in teachers:
        takes = ExportedInterface(teacher.expected, [], normalize=False, softmax=False)
        timed.append((teacher.title, "torch", _channels_last(teacher.model), takes))
    latencies = []
    for name, runtime, forward, takes in timed:
        for batch_size in config.latency.batch_sizes:
            progress.stage(f"timing {name} in {runtime}, {batch_size} crops")
            crops = takes.noise(batch_size)
            if runtime == "torch":
                crops = crops.contiguous(memory_format=torch.channels_last)
            latencies.append(
                measure_latency(partial(forward, crops), config.latency, name, runtime, batch_size)
            )
    return latencies


def _channels_last(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The network in the layout of memory in which `fkd` evaluates and trains."""
    moved: Callable[[Tensor], Tensor] = model.to(memory_format=torch.channels_last)
    return moved
