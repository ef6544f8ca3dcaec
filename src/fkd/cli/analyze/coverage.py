"""`fkd analyze coverage`: how often a schedule uses each stored crop; and duplicates."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from fkd.analysis.coverage import (
    ENOUGH,
    Coverage,
    CoverageConfig,
    compare_num_crops,
    coverage_numbers,
    draw_coverage,
    enough_crops,
    measure_coverage,
)
from fkd.analysis.duplicates import DuplicateConfig
from fkd.analysis.figures import prepare_folder, require_matplotlib, save_analysis
from fkd.checks import require_whole
from fkd.cli.analyze.bars import task_bars
from fkd.cli.analyze.duplicates import open_parts, run_duplicates
from fkd.cli.console import make_console, print_remark
from fkd.cli.verbs import VERBS
from fkd.data.crop_sources import CropOrder
from fkd.data.sources import ImagesConfig, refuse_same_folder
from fkd.engine.schedule import ScheduleConfig
from fkd.errors import ConfigError
from fkd.store import LabelStore
from fkd.userfiles import home_path


def coverage(
    *,
    store: str | None = None,
    images: ImagesConfig | None = None,
    val: ImagesConfig | None = None,
    num_crops: int | None = None,
    epochs: int = 300,
    crops_per_image: int | None = None,
    order: CropOrder = "epoch_permutation",
    schedule: ScheduleConfig = ScheduleConfig(),  # noqa: B008 - frozen
    seed: int = 0,
    num_images: int = 2000,
    duplicates: bool = True,
    num_workers: int = 2,
    out: str = "analysis",
) -> None:
    """Count how often a training run would use each stored crop; and look for duplicate images.

    The settings are those of `fkd train`, and so are the functions that answer. Duplicates are
    found as by `fkd analyze duplicates`, which has more settings.

    Args:
        store: the label store.
        images: the images that were labeled; needed for duplicates only.
        val: further images, which should have no duplicates among the others.
        num_crops: M, without a store; with one, another M than it has.
        epochs: how often every image is seen, counted in crops.
        crops_per_image: m, crops of one image in a mini-batch; by default 4.
        order: how stored crops are drawn: every crop once per cycle (epoch_permutation), or
            independently at every access as the authors' code does (iid).
        schedule: warm-up and single-crop ending; its learning rates do not matter here.
        seed: of the run.
        num_images: images of a store to follow, spread evenly over it; exact for each of them.
        duplicates: whether to look for them.
        num_workers: threads that read and decode images, for duplicates.
        out: folder of coverage.svg, coverage.png and coverage.json, and of the same of duplicates.
    """
    require_matplotlib()
    require_whole(1, "num_images", num_images)
    refuse_same_folder(out, images, val)
    console = make_console()
    opened = None if store is None else _open_crops(store)
    config = CoverageConfig(
        num_crops=_num_crops(opened, num_crops),
        epochs=epochs,
        crops_per_image=crops_per_image,
        order=order,
        schedule=schedule,
        seed=seed,
    )
    folder = home_path(out)
    prepare_folder(folder)
    _run(config, _keys(opened, num_images), folder, console)
    if opened is not None and num_images < opened.num_images:
        print_remark(
            console,
            f"{num_images:,} of {opened.num_images:,} images were followed (--num_images)",
        )
    if duplicates and (opened is not None or images is not None):
        parts = open_parts(images, val, opened, console)
        settings = DuplicateConfig(near=images is not None, num_workers=num_workers)
        run_duplicates(parts, settings, opened, console, out=folder)


def _open_crops(store: str) -> LabelStore:
    """The store.

    Raises:
        ConfigError: it holds label maps.
    """
    opened = LabelStore.open(home_path(store))
    if opened.grid is not None:
        raise ConfigError(f"store: {store} holds label maps, and no crops that a run would use")
    return opened


def _run(config: CoverageConfig, keys: list[bytes], out: Path, console: Console) -> None:
    with task_bars(console) as begin:
        advance = begin("following the run", len(keys) * len(config.passes))
        measured = measure_coverage(config, keys, advance)
        compared = compare_num_crops(config, keys)
    enough = {name: enough_crops(config, rows) for name, rows in compared.items()}
    numbers = {
        "settings": asdict(config) | {"crops_per_image": config.m, "passes": len(config.passes)},
        **coverage_numbers(measured),
        "by_num_crops": {
            name: [coverage_numbers(row) for row in rows] for name, rows in compared.items()
        },
        "enough": enough,
    }
    figure = draw_coverage(config, measured, compared)
    files = save_analysis(out, "coverage", figure, numbers)
    _print(config, measured, console)
    console.print(_table(config, compared), soft_wrap=False)
    wanted = {name: "none of these M" if m is None else f"M = {m:,}" for name, m in enough.items()}
    console.print(
        f"enough    {', '.join(f'{m} ({name})' for name, m in wanted.items())}: to show at least "
        f"{ENOUGH:.0%} as many different crops of an image as there are epochs"
    )
    console.print(f"figure    {files[0]}, {files[1].name}; numbers {files[2].name}")


def _print(config: CoverageConfig, measured: Coverage, console: Console) -> None:
    several = sum(each.crops_per_image > 1 for each in config.passes)
    console.print(
        f"schedule  {config.epochs:,} epochs in {len(config.passes):,} passes, {several:,} of them "
        f"with m = {config.m} crops of an image and the others with one; order {config.order}"
    )
    console.print(
        f"used      {measured.share_used:.1%} of the stored crops (of an image "
        f"{measured.least_used:.1%} to {measured.most_used:.1%}), each {measured.mean_uses:.2f} "
        f"times on average; {1 - measured.share_used:.1%} never"
    )


def _table(config: CoverageConfig, compared: dict[CropOrder, list[Coverage]]) -> Table:
    """Different crops of an image, and the share of the stored ones, for each M and order."""
    right = [Column(name, justify="right") for name in ("M", *compared)]
    table = Table(
        *right,
        title=f"different crops that an image shows in {config.epochs:,} epochs (share of M)",
        title_justify="left",
    )
    for rows in zip(*compared.values(), strict=True):
        own = rows[0].num_crops == config.num_crops
        cells = [f"{row.different_crops:,.1f} ({row.share_used:.1%})" for row in rows]
        table.add_row(f"{rows[0].num_crops:,}", *cells, style="bold" if own else None)
    return table


def _num_crops(store: LabelStore | None, num_crops: int | None) -> int:
    if num_crops is not None:
        return num_crops
    if store is None:
        raise ConfigError(
            "analyze coverage needs a --store, or --num_crops for one that is not there yet, e.g. "
            f"{VERBS['analyze coverage'].example} (fkd analyze coverage --help)"
        )
    return store.num_crops


def _keys(store: LabelStore | None, num_images: int) -> list[bytes]:
    """Of the labeled images of a store; without one, of as many images as are enough to tell."""
    if store is None:
        return [b"image %d" % i for i in range(min(num_images, 500))]
    rows = store.present_rows[store.labeled(store.present_rows)]
    if len(rows) == 0:
        raise ConfigError(f"store: no image of {store.path} was readable; label other images")
    spread = np.linspace(0, len(rows) - 1, min(num_images, len(rows))).astype(np.int64)
    return store.keys(rows[spread])
