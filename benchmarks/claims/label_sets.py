"""Sampled labels and pruned label sets against others, in one run: what a student learns from them.

classes   labels of a teacher of the images' own classes: accuracy
outputs   labels of a teacher of many other classes, of which few are kept: how near the student
          comes to the teacher on images that it has not seen
pruned    fewer crops of each image, by a criterion: accuracy
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.claims.config import ClaimsConfig
from benchmarks.claims.rows import Row
from benchmarks.claims.runs import Say, labels_folder, make_labels, settings, subset
from benchmarks.machine import describe_machine
from fkd.data.sources import ImagesConfig, open_source
from fkd.evaluation.evaluate import EvalConfig, evaluate
from fkd.labeling.config import LabelConfig
from fkd.labeling.run import label
from fkd.labels.codecs import Full
from fkd.models.teacher import TeacherConfig
from fkd.store import LabelStore, convert_store
from fkd.store.pruning import Keep
from fkd.training.run import train


@dataclass(frozen=True, kw_only=True)
class LabelSetsConfig(ClaimsConfig):
    """Settings of the comparison.

    Attributes:
        other_teacher: of other classes than those of the images.
        class_codecs: compared with the teacher of the images' classes.
        output_codecs: compared with the other teacher.
        pruned: crops that are kept of `stored`, and which.
        stored: crops of the label set that is pruned.
        test_images: about so many PNG files of the test images are measured on.
    """

    other_teacher: TeacherConfig
    class_codecs: tuple[str, ...] = ("full", "ms:3", "sampled:3")
    output_codecs: tuple[str, ...] = ("full", "ms:5", "sampled:5", "sampled:20")
    pruned: tuple[tuple[int, Keep], ...] = (
        (6, "first"),
        (6, "confident"),
    )
    stored: int = 8
    test_images: int = 2_000


@dataclass(frozen=True)
class Variant:
    """Labels to learn from.

    Attributes:
        group: which comparison it belongs to.
        name: in the table.
        codec: of the labels.
        num_crops: of each image.
        keep: which crops of those that are stored.
    """

    group: str
    name: str
    codec: str
    num_crops: int
    keep: Keep = "first"


def variants(config: LabelSetsConfig) -> Iterator[Variant]:
    """All rows of all comparisons."""
    for codec in config.class_codecs:
        yield Variant("classes", codec, codec, config.epochs)
    for codec in config.output_codecs:
        yield Variant("outputs", codec, codec, config.epochs)
    codec = f"ms:{config.kept}"
    yield Variant("pruned", f"all {config.stored}", codec, config.stored)
    for num_crops, keep in config.pruned:
        yield Variant("pruned", f"{num_crops} {keep}", codec, num_crops, keep)


def run_comparison(config: LabelSetsConfig, say: Say) -> str:
    """Train what is not finished; returns the tables."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    for seed in range(config.seeds):
        for variant in variants(config):
            store = make_store(config, variant, say)
            result = _train(config, variant, store, seed)
            row = results.setdefault(f"{variant.group}/{variant.name}", _sizes(store))
            for name, value in result.items():
                row.setdefault(name, []).append(value)
            say(f"seed {seed}  {variant.group}  {variant.name}: {result}")
        document = {"machine": describe_machine(), "rows": results}
        (out / "results.json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    text = "\n".join(_table(group, results) for group in ("classes", "outputs", "pruned"))
    (out / "results.md").write_text(text, "utf-8")
    return text


def make_store(config: LabelSetsConfig, variant: Variant, say: Say) -> Path:
    """The labels of a row, from the full ones of all crops."""
    if variant.group == "outputs":
        full = _label_outputs(config)
        path = full.with_name(f"outputs-{variant.codec.replace(':', '')}")
        if variant.codec == "full":
            return full
    else:
        whole = make_labels(config, (variant.codec, max(variant.num_crops, config.stored)), say)
        if variant.group == "classes":
            return whole
        full = labels_folder(config, (variant.codec, config.stored))
        if variant.num_crops == config.stored:
            return make_labels(config, (variant.codec, config.stored), say)
        path = full.with_name(f"{full.name}-{variant.name.replace(' ', '-')}")
    if not (path / "manifest.json").exists():
        convert_store(
            full,
            path,
            form="plain",
            codec=variant.codec,
            num_crops=variant.num_crops,
            keep=variant.keep,
        )
    return path


def _label_outputs(config: LabelSetsConfig) -> Path:
    """Full labels by the teacher of other classes."""
    path = Path(config.out) / "labels" / "outputs-full"
    known = make_labels(config, ("full", config.epochs), lambda line: None)
    if not (path / "manifest.json").exists():
        seed = LabelStore.open(known).config["crops"]["seed"]
        template = LabelConfig(images=subset(config), out=str(path), teacher=config.other_teacher)
        crops = replace(template.crops, scale=config.scale, seed=seed)
        label(replace(template, num_crops=config.epochs, crops=crops, codec=Full()))
    return path


def _train(config: LabelSetsConfig, variant: Variant, store: Path, seed: int) -> dict[str, float]:
    """Train a student and measure it."""
    name = f"{variant.group}-{variant.name.replace(':', '').replace(' ', '-')}"
    row = Row(name, {"method": "fkd", "crops_per_image": 1}, labels=("full", config.epochs))
    run = replace(settings(config, row, seed, lambda line: None), store=str(store))
    if variant.group != "outputs":
        result = train(replace(run, val=test_images(config, classes=True)))
        return {"top1": result.val_top1 or 0.0}
    train(replace(run, val=None, val_every=1))
    (measured,) = evaluate(
        EvalConfig(
            run.out,
            images=test_images(config, classes=False),
            teacher=config.other_teacher,
            out=str(Path(config.out) / "evaluations.json"),
        )
    )
    return {"agreement": measured.agreement or 0.0, "kl": measured.divergence or 0.0}


def test_images(config: LabelSetsConfig, *, classes: bool) -> ImagesConfig:
    """Test images spread evenly, in class folders or without: no student of outputs knows these."""
    folder = Path(config.out) / ("test-classes" if classes else "test-images")
    if not folder.exists():
        source = open_source(config.val)
        assert source.class_names is not None
        partial = folder.with_name(f"{folder.name}.partial")
        for i in range(0, len(source), max(1, len(source) // config.test_images)):
            name = source.class_names[source.label(i)] if classes else ""
            (partial / name).mkdir(parents=True, exist_ok=True)
            (partial / name / f"{i:07}.png").write_bytes(source.read(i))
        partial.rename(folder)
    return ImagesConfig(root=str(folder))


def _sizes(store: Path) -> dict[str, Any]:
    """Bytes per crop of the labels as they are, and packed."""
    packed = store.with_name(f"{store.name}-compact")
    if not (packed / "manifest.json").exists():
        convert_store(store, packed)
    opened = [LabelStore.open(path) for path in (store, packed)]
    plain, compact = (s.num_bytes / (s.num_images * s.num_crops) for s in opened)
    return {"plain_bytes_per_crop": plain, "compact_bytes_per_crop": compact}


def _table(group: str, results: dict[str, dict[str, Any]]) -> str:
    rows = {n.split("/")[1]: r for n, r in results.items() if n.startswith(f"{group}/")}
    measured = ("agreement", "kl") if group == "outputs" else ("top1",)
    lines = [f"| {group} | {' | '.join(measured)} | n | bytes per crop, plain | compact |"]
    lines += ["|---" * (len(measured) + 4) + "|"]
    for name, row in rows.items():
        cells = [_spread(row[what]) for what in measured]
        sizes = [f"{row[f'{form}_bytes_per_crop']:.1f}" for form in ("plain", "compact")]
        cells = [name, *cells, str(len(row[measured[0]])), *sizes]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    digits = 3 if max(values) < 10 else 2
    deviation = stdev(values) if len(values) > 1 else 0.0
    return f"{mean(values):.{digits}f} ± {deviation:.{digits}f}"
