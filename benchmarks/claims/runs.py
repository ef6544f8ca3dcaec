"""Labels and runs: label stores and run folders, so a killed comparison can be resumed."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.claims.config import ClaimsConfig
from benchmarks.claims.rows import Labels, Row
from fkd.crops.sampling import CropConfig
from fkd.data.sources import ImagesConfig, ImageSource, open_source
from fkd.engine.schedule import ScheduleConfig
from fkd.labeling.config import LabelConfig, LabelMapsConfig
from fkd.labeling.run import label, label_maps
from fkd.labels.codecs import Full
from fkd.methods import MealV2Config
from fkd.store import convert_store
from fkd.training.config import TrainConfig
from fkd.training.run import TrainResult, train

Say = Callable[[str], None]


def subset(config: ClaimsConfig) -> ImagesConfig:
    """The images of all runs: those of the configuration, or a random choice in class folders."""
    if config.max_images is None:
        return config.images
    folder = Path(config.out) / "images"
    if not folder.exists():
        source = open_source(config.images)
        chosen = np.random.default_rng(0).permutation(len(source))[: config.max_images]
        partial = folder.with_name("images.partial")
        shutil.rmtree(partial, ignore_errors=True)
        for i in sorted(chosen.tolist()):
            _copy(source, i, partial)
        partial.rename(folder)
    return ImagesConfig(root=str(folder))


def _copy(source: ImageSource, i: int, folder: Path) -> None:
    assert source.class_names is not None
    target = folder / source.class_names[source.label(i)]
    target.mkdir(parents=True, exist_ok=True)
    data = source.read(i)
    suffix = "png" if data.startswith(b"\x89PNG") else "jpg"
    (target / f"{i:07}.{suffix}").write_bytes(data)


def make_labels(config: ClaimsConfig, labels: Labels, say: Say) -> Path:
    """The store of these labels; the teacher runs once, for the largest of them."""
    codec, stored = labels
    path = labels_folder(config, labels)
    most = ("full", config.epochs)
    if labels == most:
        if not (path / "manifest.json").exists():
            say(f"labels   {stored} crops of every image, full, by the teacher")
        label(_label_config(config, path))
    elif not (path / "manifest.json").exists():
        source = make_labels(config, most, say)
        say(f"labels   {codec}, {stored} crops of every image, from those")
        convert_store(source, path, form="plain", codec=codec, num_crops=stored)
    return path


def labels_folder(config: ClaimsConfig, labels: Labels) -> Path:
    """Where the store of these labels is."""
    codec, stored = labels
    return Path(config.out) / "labels" / f"{codec.replace(':', '')}-M{stored}"


def maps_folder(config: ClaimsConfig) -> Path:
    """Where the store of label maps is."""
    return Path(config.out) / "labels" / "maps"


def _label_config(config: ClaimsConfig, path: Path) -> LabelConfig:
    return LabelConfig(
        images=subset(config),
        out=str(path),
        teacher=config.teacher,
        num_crops=config.epochs,
        crops=CropConfig(scale=config.scale),
        codec=Full(),
        classes="dataset",
        device=config.device,
    )


def make_maps(config: ClaimsConfig, say: Say) -> Path:
    """The store of label maps; as many classes a cell as the larger codec keeps of a crop."""
    path = maps_folder(config)
    if not (path / "manifest.json").exists():
        say("labels   maps of the whole images, by the teacher")
    maps = LabelMapsConfig(
        images=subset(config),
        out=str(path),
        teacher=config.teacher,
        top_k=config.kept_more,
        classes="dataset",
        device=config.device,
    )
    label_maps(maps)
    return path


def settings(config: ClaimsConfig, row: Row, seed: int, say: Say) -> TrainConfig:
    """The training run of a row and a seed; its labels are made if they are not there."""
    options: dict[str, Any] = dict(row.options)
    if row.labels is not None:
        options["store"] = str(make_labels(config, row.labels, say))
    else:
        options["crops"] = CropConfig(scale=config.scale)
    if row.maps:
        options["store"] = str(make_maps(config, say))
    if row.online:
        options |= {"teacher": config.teacher, "classes": "dataset"}
    if "discriminator" in options:
        options["mealv2"] = MealV2Config(discriminator=options.pop("discriminator"))
    student, optimizer = config.student, config.optimizer
    if row.starts_from is not None:
        student = replace(student, checkpoint=str(run_folder(config, row.starts_from, seed)))
        optimizer = replace(optimizer, lr=config.fine_tuning_lr)
    return TrainConfig(
        out=str(run_folder(config, row.name, seed)),
        images=subset(config),
        val=config.val,
        val_every=config.epochs,
        student=student,
        epochs=config.epochs,
        batch_size=config.batch_size,
        optimizer=optimizer,
        # So few epochs have no room for a staircase, nor for an ending with single crops.
        schedule=ScheduleConfig(per_step=True, single_crop_ending=False),
        seed=seed,
        num_workers=config.num_workers,
        device=config.device,
        log_every=1_000_000,
        **options,
    )


def run_folder(config: ClaimsConfig, name: str, seed: int) -> Path:
    """Where a run is."""
    return Path(config.out) / "runs" / f"{name}-seed{seed}"


def run_row(config: ClaimsConfig, row: Row, seed: int, say: Say) -> TrainResult:
    """Train a row with a seed, or read the result of a finished run."""
    return train(settings(config, row, seed, say))
