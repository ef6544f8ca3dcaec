"""Tables and a picture of what is finished: mean, standard deviation and n, cost and storage."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.claims.config import ClaimsConfig
from benchmarks.claims.networks import read_networks
from benchmarks.claims.rows import Row, rows_of
from benchmarks.claims.running import run_folder
from benchmarks.claims.verdicts import Line, judge
from benchmarks.plot import plot_accuracies
from fkd.engine.logging import read_metrics
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
    tables = {claim: _lines(config, rows_of(claim, config), timing) for claim in config.claims}
    tables = {claim: lines for claim, lines in tables.items() if lines}
    networks = read_networks(config)
    verdicts = judge(config, [line for lines in tables.values() for line in lines], networks)
    found = {
        "commits": _commits(config),
        "machine": machine,
        "networks": networks,
        "verdicts": [vars(verdict) for verdict in verdicts],
        "claims": {
            claim: [vars(line) | {"mean": line.mean, "std": line.deviation} for line in lines]
            for claim, lines in tables.items()
        },
        "timing": timing,
    }
    (out / "results.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    parts = [*(_table(TITLES[claim], lines) for claim, lines in tables.items())]
    parts += ["### What the paper says, and what came out\n\n" + "".join(map(str, verdicts))]
    text = "\n".join(parts if verdicts else parts[:-1])
    (out / "results.md").write_text(text, "utf-8")
    for claim, lines in tables.items() if pictures else ():
        bars = {line.name: (line.mean, line.deviation) for line in lines}
        plot_accuracies(bars, out / f"claim{claim}.png", TITLES[claim])
    return text


def _lines(config: ClaimsConfig, rows: Sequence[Row], timing: dict[str, Any]) -> list[Line]:
    lines = [_line(config, row, timing) for row in rows]
    return [line for line in lines if line is not None]


def _line(config: ClaimsConfig, row: Row, timing: dict[str, Any]) -> Line | None:
    """A row of the table; None while no run of it is finished."""
    folders = [run_folder(config, row.name, seed) for seed in range(config.seeds)]
    finished = [folder for folder in folders if (folder / "model.safetensors").exists()]
    if not finished:
        return None
    timed = timing.get(row.name)
    environment = json.loads((finished[0] / "env.json").read_text("utf-8"))
    num_images, asked, label_bytes = environment["data"]["images"]["num_images"], 0, 0.0
    if row.labels is not None:
        codec, stored = row.labels
        store = LabelStore.open(Path(config.out) / "labels" / f"{codec.replace(':', '')}-M{stored}")
        label_bytes, asked = store.num_bytes / store.num_images, num_images * stored
    elif row.asks:
        asked = num_images * config.epochs
    elif row.maps:
        store = LabelStore.open(Path(config.out) / "labels" / "maps")
        label_bytes, asked = store.num_bytes / store.num_images, num_images
    return Line(
        row.name,
        [_last(folder, "val_top1") for folder in finished],
        [_last(folder, "seconds") for folder in finished],
        timed["relative"] if timed else None,
        asked,
        label_bytes,
    )


def _commits(config: ClaimsConfig) -> list[str]:
    """The code that the runs come from, as they noted it when they began."""
    files = (Path(config.out) / "runs").glob("*/env.json")
    return sorted({str(json.loads(file.read_text("utf-8"))["commit"]) for file in files})


def _last(folder: Path, name: str) -> float:
    """The last figure of that name in metrics.jsonl."""
    lines = [line for line in read_metrics(folder / "metrics.jsonl") if name in line]
    return float(lines[-1][name] or 0.0)


def _table(title: str, lines: Sequence[Line]) -> str:
    head = (
        f"### {title}\n\n"
        "| row | top-1, % | n | seconds per epoch, vanilla = 1 | crops seen by the teacher "
        "| label bytes per image |\n|---|---|---|---|---|---|\n"
    )
    return head + "".join(
        f"| {line.name} | {line.told} | {len(line.accuracies)} | "
        f"{'-' if line.relative is None else f'{line.relative:.2f}'} | {line.teacher_crops:,} | "
        f"{line.label_bytes:,.0f} |\n"
        for line in lines
    )
