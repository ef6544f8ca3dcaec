"""Tables and a picture of what is finished: mean, standard deviation and n, cost and storage."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.claims.config import ClaimsConfig
from benchmarks.claims.expectations import Result, check_expectations
from benchmarks.claims.networks import read_networks
from benchmarks.claims.rows import Row, rows_of
from benchmarks.claims.runs import labels_folder, maps_folder, run_folder
from benchmarks.plot import plot_accuracies
from benchmarks.training import read_log
from fkd.store import LabelStore

TITLES = {
    1: "Methods (Tables 1 and 3)",
    2: "Codecs (Table 6)",
    3: "Crops of an image in a mini-batch (Table 7)",
    4: "Stored crops, and how they are drawn (Sec. 4.1)",
    5: "Fine-tuning a trained student (Table 4)",
}


def write_report(config: ClaimsConfig, machine: dict[str, Any], *, pictures: bool = True) -> str:
    """Write results.json, results.md and pictures; returns the text of results.md."""
    out = Path(config.out)
    timing_file = out / "timing.json"
    timing = json.loads(timing_file.read_text("utf-8")) if timing_file.exists() else {}
    tables = {claim: _results(config, rows_of(claim, config), timing) for claim in config.claims}
    tables = {claim: results for claim, results in tables.items() if results}
    networks = read_networks(config)
    everything = [result for results in tables.values() for result in results]
    outcomes = check_expectations(config, everything, networks)
    report = {
        "commits": _commits(config),
        "machine": machine,
        "networks": networks,
        "expectations": [vars(outcome) for outcome in outcomes],
        "claims": {
            claim: [
                vars(result) | {"mean": result.mean, "std": result.deviation} for result in results
            ]
            for claim, results in tables.items()
        },
        "timing": timing,
    }
    (out / "results.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    parts = [*(_table(TITLES[claim], results) for claim, results in tables.items())]
    parts += ["### What the paper says, and what came out\n\n" + "".join(map(str, outcomes))]
    text = "\n".join(parts if outcomes else parts[:-1])
    (out / "results.md").write_text(text, "utf-8")
    for claim, results in tables.items() if pictures else ():
        bars = {result.name: (result.mean, result.deviation) for result in results}
        plot_accuracies(bars, out / f"claim{claim}.png", TITLES[claim])
    return text


def _results(config: ClaimsConfig, rows: Sequence[Row], timing: dict[str, Any]) -> list[Result]:
    results = [_result(config, row, timing) for row in rows]
    return [result for result in results if result is not None]


def _result(config: ClaimsConfig, row: Row, timing: dict[str, Any]) -> Result | None:
    """A row of the table; None while no run of it is finished."""
    folders = [run_folder(config, row.name, seed) for seed in range(config.seeds)]
    finished = [folder for folder in folders if (folder / "model.safetensors").exists()]
    if not finished:
        return None
    timed = timing.get(row.name)
    environment = json.loads((finished[0] / "env.json").read_text("utf-8"))
    num_images, teacher_crops, label_bytes = environment["data"]["images"]["num_images"], 0, 0.0
    if row.labels is not None:
        store = LabelStore.open(labels_folder(config, row.labels))
        label_bytes, teacher_crops = store.num_bytes / store.num_images, num_images * row.labels[1]
    elif row.online:
        teacher_crops = num_images * config.epochs
    elif row.maps:
        store = LabelStore.open(maps_folder(config))
        label_bytes, teacher_crops = store.num_bytes / store.num_images, num_images
    return Result(
        row.name,
        [_last(folder, "val_top1") for folder in finished],
        [_last(folder, "seconds") for folder in finished],
        timed["relative"] if timed else None,
        teacher_crops,
        label_bytes,
    )


def _commits(config: ClaimsConfig) -> list[str]:
    """The code that the runs come from, as they noted it when they began."""
    files = (Path(config.out) / "runs").glob("*/env.json")
    return sorted({str(json.loads(file.read_text("utf-8"))["commit"]) for file in files})


def _last(folder: Path, name: str) -> float:
    """The last figure of that name in metrics.jsonl."""
    lines = [line for line in read_log(folder) if name in line]
    return float(lines[-1][name] or 0.0)


def _table(title: str, results: Sequence[Result]) -> str:
    head = (
        f"### {title}\n\n"
        "| row | top-1, % | n | seconds per epoch, vanilla = 1 | crops seen by the teacher "
        "| label bytes per image |\n|---|---|---|---|---|---|\n"
    )
    return head + "".join(
        f"| {result.name} | {result.text} | {len(result.accuracies)} | "
        f"{'-' if result.relative is None else f'{result.relative:.2f}'} | "
        f"{result.teacher_crops:,} | {result.label_bytes:,.0f} |\n"
        for result in results
    )
