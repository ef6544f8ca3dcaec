"""`fkd analyze distance`: cross-entropies between truth, stored labels, label maps and models."""

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from fkd.analysis.distance import Distances
from fkd.analysis.distance_figure import draw_distances
from fkd.analysis.distance_run import (
    RELABEL,
    DistanceConfig,
    DistanceSetup,
    measure_distances,
    open_distance,
)
from fkd.analysis.figures import prepare_folder, require_matplotlib, save_analysis
from fkd.analysis.samples import describe_classes
from fkd.cli.console import make_bar, make_console, print_remark
from fkd.data.sources import refuse_same_folder
from fkd.userfiles import home_path


def distance(config: DistanceConfig) -> None:
    """Compare labels of the same crops by cross-entropy (Eq. 2, Fig. 3 of the paper).

    The true class, ReLabel's label maps pooled at the same boxes, the labels of one or several
    stores, and what any models say of the same crops: how far each is from each other, class by
    class. Classes are matched by name.
    """
    require_matplotlib()
    refuse_same_folder(config.out, config.images)
    console = make_console()
    setup = open_distance(config)
    prepare_folder(home_path(config.out))
    _print_setup(setup, console)
    with make_bar(console) as bar:
        task = bar.add_task("images", total=len(setup.sample))
        distances = measure_distances(setup, lambda count: bar.advance(task, count))
    numbers = _settings(setup) | distances.to_json() | {"notes": setup.notes}
    files = save_analysis(home_path(config.out), "distance", draw_distances(distances), numbers)
    _print_matrix(distances, console)
    console.print(f"figure    {files[0]}, {files[1].name}; numbers {files[2].name}")


def more_help() -> str:
    """How models and stores are named."""
    return (
        "Each model and each further store has a name of yours:\n"
        "  --models.base resnet50 --models.ours runs/student --other_stores.ms5 labels-ms5\n"
        '  --models "{base: resnet50, old: {name: resnet50, checkpoint: a.pth, temperature: 2}}"\n'
        "The store's crops are what all sources are asked about; a further store must hold the\n"
        "same crops (the same crops.seed), in any codec, of any teacher. Full labels compare best."
    )


def _settings(setup: DistanceSetup) -> dict[str, Any]:
    """What the figure was made of, but for paths of this machine."""
    sample = setup.config.sample
    return {
        "settings": {
            "seed": sample.seed,
            "images_per_class": sample.images_per_class,
            "crops_per_image": int(setup.sample.crops.shape[1]),
            "num_images": len(setup.sample),
            "clamp": setup.config.clamp,
            "root_hashes": {each.name: each.store.root_hash for each in setup.stores}
            | ({} if setup.maps is None else {RELABEL: setup.maps.store.root_hash}),
        }
    }


def _print_setup(setup: DistanceSetup, console: Console) -> None:
    sample = setup.sample
    console.print(
        f"crops     {sample.crops.shape[1]} of each of {len(sample):,} images "
        f"{describe_classes(sample.class_names)}, drawn with seed {setup.config.sample.seed}"
    )
    for source in setup.sources:
        console.print(f"compared  {source.name}: {source.description}")
    for note in setup.notes:
        print_remark(console, note)


def _print_matrix(distances: Distances, console: Console) -> None:
    names = [source.name for source in distances.sources]
    console.print("nats      cross-entropy of A (rows) where B (columns) is right; -: not defined")
    table = Table(
        Column("A \\ B", no_wrap=True),
        *names,
    )
    for name, row in zip(names, distances.mean, strict=True):
        table.add_row(name, *("-" if np.isnan(value) else f"{value:.3f}" for value in row))
    console.print(table, soft_wrap=False)
