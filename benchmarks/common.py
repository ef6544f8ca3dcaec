"""What the scripts share: options, one run of a room, the JSON file and the picture beside it."""

import argparse
import json
from pathlib import Path

from fkd.cli.process import prepare_process


def options(description: str) -> argparse.Namespace:
    """The command line; sets the process up as every `fkd` command does, for all sides alike."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=Path("bench-output"), help="for JSON and PNG")
    parser.add_argument("--scale", choices=["quick", "full"], default="full")
    parser.add_argument("--images", help="folder of your own images instead of installed ones")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    prepare_process()  # before torch is imported
    return chosen


def run_room(name: str, description: str) -> None:
    """Measure one row of the goals table; prints its lines, writes NAME.json and NAME.png."""
    chosen = options(description)
    from fkd.bench import BenchConfig, run_bench, summary
    from fkd.bench.plot import plot_rows
    from fkd.data import ImagesConfig

    images = ImagesConfig(root=chosen.images) if chosen.images else None
    file = chosen.out / f"{name}.json"
    config = BenchConfig(rows=name, scale=chosen.scale, images=images, json=str(file))
    report = run_bench(config, print)
    for row in report.rows:
        print(json.dumps(row.to_json()))
    plot_rows(report.rows, file.with_suffix(".png"), summary(report.machine))
