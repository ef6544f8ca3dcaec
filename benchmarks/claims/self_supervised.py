"""Stored embeddings against an online teacher: FKD-SSL and S2-BNN, by linear evaluation.

python -m benchmarks.claims.run_self_supervised --config benchmarks/claims/cifar10-ssl.yaml

Every row trains the same student on the same images for the same number of crop-epochs, with the
same optimizer, head and crops; seeds differ in weights and order. What a student is worth is
measured by `fkd probe`: nearest neighbors and a linear classifier on its frozen features, beside
those of the teacher and of the same network with random weights. Stop it any time: the same command
resumes after the last finished run. Times count only where nothing else runs on the machine, and
where no run was stopped.
"""

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

from benchmarks.claims.runs import Say, subset
from benchmarks.machine import describe_machine
from fkd.crops.sampling import CropConfig
from fkd.data.sources import ImagesConfig
from fkd.engine.optim import OptimizerConfig
from fkd.engine.schedule import ScheduleConfig
from fkd.evaluation.probe import NeighborsConfig, ProbeConfig, ProbeReport, probe
from fkd.labeling.config import LabelConfig
from fkd.labeling.run import label
from fkd.methods import SslConfig
from fkd.models.teacher import TeacherConfig
from fkd.training.config import StudentConfig, TrainConfig
from fkd.training.run import train

_ONLINE, _STORED = "s2bnn", "fkd-ssl"


@dataclass(frozen=True, kw_only=True)
class SslClaimsConfig:
    """Settings of the comparison.

    Attributes:
        images: to train on, and to train the linear classifier on.
        val: to measure accuracy on.
        teacher: whose features are learned.
        student: the network that every row trains.
        out: folder of the store, the runs, the features and the results.
        epochs: crop-epochs of every run, and the crops stored per image.
        max_images: train on a random choice of that many images; they are copied into `out`.
        batch_size: crops per step.
        crops_per_image: m of the row whose batches have several crops of an image; 1 in the others.
        scale: smallest and largest share of an image's area in a crop.
        optimizer: of every run.
        losses: compared on the store; the first one also with the online teacher.
        knn: the vote of nearest neighbors.
        seeds: runs of every row.
        num_workers: threads that load batches.
        device: cpu or cuda; by default a GPU if there is one.
    """

    images: ImagesConfig
    val: ImagesConfig
    teacher: TeacherConfig
    student: StudentConfig
    out: str
    epochs: int = 16
    max_images: int | None = 7_500
    batch_size: int = 128
    crops_per_image: int = 4
    scale: tuple[float, float] = (0.2, 1.0)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(name="adamw", lr=1e-3)
    )
    losses: tuple[SslConfig, ...] = (
        SslConfig(),
        SslConfig(loss="cosine"),
        SslConfig(loss="bank"),
    )
    knn: NeighborsConfig = field(default_factory=NeighborsConfig)
    seeds: int = 3
    num_workers: int = 1
    device: str | None = None


@dataclass(frozen=True)
class Row:
    """One way to train: a method, a loss, and m."""

    method: str
    loss: SslConfig
    crops_per_image: int = 1

    @property
    def name(self) -> str:
        """For example "fkd-ssl dims m4"."""
        several = f" m{self.crops_per_image}" if self.crops_per_image > 1 else ""
        return f"{self.method} {self.loss.loss}{several}"


def all_rows(config: SslClaimsConfig) -> list[Row]:
    """The online row first, which the others are compared with."""
    first = config.losses[0]
    return [
        Row(_ONLINE, first),
        *(Row(_STORED, loss) for loss in config.losses),
        Row(_STORED, first, config.crops_per_image),
    ]


def run_comparison(config: SslClaimsConfig, say: Say) -> str:
    """Train and probe what is not finished; returns the table."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    labeling = _make_store(config, say)
    teacher = _probe_teacher(config)
    say(f"teacher  {_accuracy(teacher)}")
    untrained = [_probe_untrained(config, seed) for seed in range(config.seeds)]
    say(f"random weights: {'; '.join(_accuracy(report) for report in untrained)}")
    runs: dict[str, list[dict[str, float]]] = {row.name: [] for row in all_rows(config)}
    for seed in range(config.seeds):
        for row in all_rows(config):
            found = _run(config, row, seed)
            runs[row.name].append(found)
            say(
                f"seed {seed}   {row.name}: k-NN {found['knn_top1']:.2f} %, linear "
                f"{found['linear_top1']:.2f} %, {found['seconds']:.0f} s"
            )
            results = _summary(config, runs) | {"labeling_seconds": labeling, "machine": machine}
            results |= {"teacher": asdict(teacher), "config": asdict(config), "runs": runs}
            results |= {"untrained": [asdict(report) for report in untrained]}
            (out / "self-supervised.json").write_text(json.dumps(results, indent=1))
    references = {"the teacher": [teacher], "random weights": untrained}
    return _table(_summary(config, runs), references, labeling)


def _make_store(config: SslClaimsConfig, say: Say) -> float | None:
    """The store of the teacher's features; returns seconds of the teacher, None if it was there."""
    path = Path(config.out) / "embeddings"
    if (path / "manifest.json").exists():
        return None
    say(f"labels   {config.epochs} crops of every image")
    result = label(
        LabelConfig(
            images=subset(config),
            out=str(path),
            teacher=config.teacher,
            num_crops=config.epochs,
            crops=CropConfig(scale=config.scale),
            device=config.device,
        )
    )
    return float(result.seconds)


def _run(config: SslClaimsConfig, row: Row, seed: int) -> dict[str, float]:
    """Train a row with a seed and probe its student; a finished run is only probed."""
    path = Path(config.out) / "runs" / f"{row.name.replace(' ', '-')}-seed{seed}"
    result = train(_settings(config, row, seed, path))
    report = _probe(config, str(path))
    return {
        "seconds": result.seconds,
        "knn_top1": report.knn_top1,
        "linear_top1": report.linear.top1,
    }


def _settings(config: SslClaimsConfig, row: Row, seed: int, path: Path) -> TrainConfig:
    options: dict[str, Any] = {"teacher": config.teacher, "crops": CropConfig(scale=config.scale)}
    if row.method == _STORED:
        store = str(Path(config.out) / "embeddings")
        options = {"store": store, "crops_per_image": row.crops_per_image}
    return TrainConfig(
        method=row.method,
        out=str(path),
        images=subset(config),
        student=config.student,
        epochs=config.epochs,
        batch_size=config.batch_size,
        optimizer=config.optimizer,
        schedule=ScheduleConfig(per_step=True, single_crop_ending=False),
        ssl=row.loss,
        seed=seed,
        num_workers=config.num_workers,
        device=config.device,
        log_every=1_000_000,
        **options,
    )


def _probe(config: SslClaimsConfig, model: str, checkpoint: str | None = None) -> ProbeReport:
    """Of a student; without a folder of features, which no other probe needs."""
    return probe(
        ProbeConfig(
            model,
            checkpoint=checkpoint,
            input_size=config.student.input_size if checkpoint else None,
            images=subset(config),
            val=config.val,
            out=None,
            knn=config.knn,
            num_workers=config.num_workers,
            device=config.device,
        )
    )


def _probe_untrained(config: SslClaimsConfig, seed: int) -> ProbeReport:
    """What the student is worth before it has learned anything."""
    torch.manual_seed(seed)
    weights = Path(config.out) / f"untrained-seed{seed}.safetensors"
    save_file(timm.create_model(config.student.name).state_dict(), weights)
    return _probe(config, config.student.name, str(weights))


def _accuracy(report: ProbeReport) -> str:
    return f"k-NN {report.knn_top1:.2f} %, linear {report.linear.top1:.2f} %"


def _probe_teacher(config: SslClaimsConfig) -> ProbeReport:
    """What the teacher itself is worth, with the input that it labels crops at."""
    teacher = config.teacher
    name = teacher.name or str(teacher.checkpoint)
    return probe(
        ProbeConfig(
            name,
            checkpoint=teacher.checkpoint if teacher.name else None,
            input_size=teacher.input_size,
            images=subset(config),
            val=config.val,
            out=str(Path(config.out) / "features"),
            knn=config.knn,
            num_workers=config.num_workers,
            device=config.device,
        )
    )


def _summary(
    config: SslClaimsConfig, runs: dict[str, list[dict[str, float]]]
) -> dict[str, dict[str, dict[str, float]]]:
    """Mean, standard deviation and n of every row, and its time relative to the online row."""
    online = runs[all_rows(config)[0].name]
    rows: dict[str, dict[str, float]] = {}
    for name, found in runs.items():
        if not found:
            continue
        rows[name] = {"n": len(found)}
        for key in ("linear_top1", "knn_top1", "seconds"):
            values = [run[key] for run in found]
            rows[name] |= {
                key: statistics.mean(values),
                f"{key}_std": statistics.stdev(values) if len(values) > 1 else 0.0,
            }
        rows[name]["relative_time"] = rows[name]["seconds"] / statistics.mean(
            run["seconds"] for run in online
        )
    return {"rows": rows}


def _table(
    summary: dict[str, dict[str, dict[str, float]]],
    references: dict[str, list[ProbeReport]],
    labeling: float | None,
) -> str:
    lines = [
        "| row | n | linear top-1 | k-NN top-1 | seconds | relative |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {row['n']:.0f} "
            f"| {row['linear_top1']:.2f} ± {row['linear_top1_std']:.2f} | "
            f"{row['knn_top1']:.2f} ± {row['knn_top1_std']:.2f} | {row['seconds']:.1f} | "
            f"{row['relative_time']:.2f} x |"
            for name, row in summary["rows"].items()
        ),
        *(
            f"| {name} | {len(reports)} | "
            f"{statistics.mean(report.linear.top1 for report in reports):.2f} | "
            f"{statistics.mean(report.knn_top1 for report in reports):.2f} | - | - |"
            for name, reports in references.items()
        ),
    ]
    told = "" if labeling is None else f"\nlabels: {labeling:.1f} s of the teacher, once\n"
    return "\n".join(lines) + "\n" + told
