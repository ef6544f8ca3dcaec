"""One self-contained HTML page about training runs: results, curves, settings, data, figures.

Read from run folders alone, without torch. The page opens from disk, loads nothing, and needs no
JavaScript but for sorting its tables.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import yaml

from fkd.errors import FKDError
from fkd.store import LabelStore
from fkd.userfiles import home_path
from fkd.viewing.curves import HEIGHT, LEFT, RIGHT, WIDTH, Chart, Curve, draw_chart
from fkd.viewing.figures import read_figure
from fkd.viewing.results import (
    Group,
    Outcome,
    differing_settings,
    evaluated_metrics,
    group_by_seed,
    label_of,
    loss_parts,
    outcome_of,
)
from fkd.viewing.runs import Run, read_runs
from fkd.viewing.summary import summarize
from fkd.viewing.tables import ABSENT, Cell, Table
from fkd.viewing.templates import render

GENERATOR = "fkd report"
_SHORT = 28  # characters of a setting that fits beside the results
_FEW_SETTINGS = 5  # beside the results
_FEW_NAMES = 6
_DIGITS = {"loss": (".4f", ".2g"), "seconds": (",.0f", ",.0f")}  # of a mean and its deviation
_TELLING = ("method", "student.name", "crops_per_image", "epochs", "optimizer.lr", "seed")


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What a report says beside what is in the run folders.

    Attributes:
        title: of the page.
        notes: text below the title; an empty line begins a paragraph.
        figures: files to show: SVG, PNG and JPEG as they are, JSON as tables.
    """

    title: str = "Training runs"
    notes: str = ""
    figures: list[str] = field(default_factory=list)


def render_report(runs: Sequence[str], config: ReportConfig | None = None) -> str:
    """The page about the runs in these folders, as HTML.

    Raises:
        ConfigError: no path is the folder of a run, one does not exist, or a figure cannot be
            shown.
    """
    config = config or ReportConfig()
    found, left_out = read_runs(runs)
    metrics = evaluated_metrics(found)
    outcomes = [outcome_of(run, metrics) for run in found]
    groups = group_by_seed(found, outcomes, metrics)
    differing = differing_settings(found)
    return render(
        "report.html.j2",
        script="report.js",
        title=config.title,
        version=version("fkd"),
        paragraphs=[part.split("\n") for part in config.notes.strip().split("\n\n") if part],
        notes=[(run.name, note) for run in found for note in run.notes]
        + [("", note) for note in left_out],
        results=_results(found, outcomes, metrics, differing),
        seeds=_seeds(groups, metrics),
        legend=_legend(found, groups),
        charts=_charts(found, groups, metrics),
        axes={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT},
        settings=_settings(found, differing),
        stores=_stores(found),
        environment=_environments(found),
        figures=[read_figure(path) for path in config.figures],
    )


# Tables


def _results(
    runs: Sequence[Run],
    outcomes: Sequence[Outcome],
    metrics: Sequence[str],
    differing: Sequence[str],
) -> Table:
    """One row per run: the settings that tell it apart, and what came out."""
    short = [
        name
        for name in sorted(differing, key=lambda name: name not in _TELLING)
        if all(len(_text(run.settings.get(name))) <= _SHORT for run in runs)
    ][:_FEW_SETTINGS]
    judged = [name for name in metrics if any(name == each.judged for each in outcomes)]
    columns = ["run", *_result_columns(metrics, judged), *short]
    rows = [
        [
            Cell(run.name if run.finished else f"{run.name} (not finished)"),
            *_result_cells(outcome, metrics, judged),
            *(_setting(run.settings.get(name)) for name in short),
        ]
        for run, outcome in zip(runs, outcomes, strict=True)
    ]
    return Table("Results of each run", columns, rows, sortable=len(runs) > 1)


def _result_columns(metrics: Sequence[str], judged: Sequence[str]) -> list[str]:
    """The final value of each metric, and after those that a run is judged by the best one."""
    columns = []
    for name in metrics:
        label = label_of(name)
        columns += [label, f"best {label}", "at epoch"] if name in judged else [label]
    return [*columns, "loss", "time", "crops/s", "images/s"]


def _result_cells(outcome: Outcome, metrics: Sequence[str], judged: Sequence[str]) -> list[Cell]:
    """What came out of a run, in the order of `_result_columns`."""
    cells = []
    for name in metrics:
        cells.append(_number(outcome.finals.get(name), ".2f"))
        if name in judged:
            value, epoch = outcome.best if outcome.best and name == outcome.judged else (None, None)
            cells += [_number(value, ".2f"), _number(epoch, ".4g")]
    return [
        *cells,
        _number(outcome.loss, ".4f"),
        _clock(outcome.seconds),
        *map(_rate, (outcome.crops_per_second, outcome.images_per_second)),
    ]


def _seeds(groups: Sequence[Group], metrics: Sequence[str]) -> Table | None:
    """Means and deviations over seeds; None where no run has a sibling."""
    several = [group for group in groups if len(group.runs) > 1]
    if not several:
        return None
    names = [*metrics, "best", "loss", "seconds"]
    names = [name for name in names if any(name in group.means for group in several)]
    columns = ["runs", "n", *map(label_of, names)]
    rows = []
    for group in several:
        of_finished = f" ({group.unfinished} not finished)" if group.unfinished else ""
        number = len(group.runs) - group.unfinished
        means = [_mean(group.means.get(n), *_DIGITS.get(n, (".2f", ".2f"))) for n in names]
        rows.append([Cell(group.name), Cell(f"{number}{of_finished}", number), *means])
    return Table(
        "Mean and standard deviation (of a sample) of finished runs that differ only by seed",
        columns,
        rows,
        sortable=len(several) > 1,
    )


def _settings(runs: Sequence[Run], differing: Sequence[str]) -> list[Table]:
    """Settings that differ, one column per run, and those that all runs share."""
    tables = []
    if differing:
        rows = [
            [Cell(name), *(_setting(run.settings.get(name)) for run in runs)] for name in differing
        ]
        tables.append(Table("Settings that differ", ["setting", *_names(runs)], rows))
    known = [run.settings for run in runs if run.settings]
    shared = {name: value for settings in known for name, value in settings.items()}
    rows = [
        [Cell(name), _setting(value)]
        for name, value in shared.items()
        if name not in differing and (name != "out" or len(known) == 1)
    ]
    if rows:
        caption = "All other settings, the same in every run" if differing else "Settings"
        tables.append(Table(caption, ["setting", "value"], rows))
    return tables


def _environments(runs: Sequence[Run]) -> Table | None:
    """Versions, hardware and data of each run; one column where all are equal."""
    known = [run for run in runs if run.environment]
    names = dict.fromkeys(name for run in known for name in run.environment if name != "seed")
    if not names:
        return None
    values = {
        name: [_setting(run.environment.get(name, ABSENT)) for run in known] for name in names
    }
    alike = all(len({cell.text for cell in cells}) == 1 for cells in values.values())
    columns = ["every run" if len(known) > 1 else known[0].name] if alike else _names(known)
    rows = [[Cell(name), *(cells[:1] if alike else cells)] for name, cells in values.items()]
    return Table("Versions, hardware and data", ["", *columns], rows)


@dataclass(frozen=True)
class StoreFacts:
    """What is known of a label store that runs were trained from.

    Attributes:
        path: as the settings have it.
        runs: names of these runs.
        facts: name to value.
        note: why more is not known; empty where it is.
    """

    path: str
    runs: str
    facts: dict[str, str]
    note: str


def _stores(runs: Sequence[Run]) -> list[StoreFacts]:
    """The label stores of the runs; each is opened, if it is still there and the same."""
    users: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        if isinstance(path := run.settings.get("store"), str):
            users[path, str(run.environment.get("data.store_root_hash", ""))].append(run)
    return [
        StoreFacts(path, _few(_names(of_store)), *_open(path, root_hash))
        for (path, root_hash), of_store in users.items()
    ]


def _open(path: str, root_hash: str) -> tuple[dict[str, str], str]:
    """Facts of a store, and why there are only few."""
    recorded = {"root hash": root_hash} if root_hash else {}
    if not home_path(path).exists():
        return recorded, "It is not at this path from here; run fkd report where it is, for more."
    try:
        store = LabelStore.open(home_path(path), partial=True)
        if root_hash and store.root_hash != root_hash:
            return recorded, "Another store is at this path now, so no more is said of it."
        summary = summarize(store, num_samples=0)
    except (FKDError, OSError) as error:
        return recorded, f"It cannot be opened: {error}"
    teachers = ", ".join(teacher.name or "unknown" for teacher in store.provenance.teachers)
    return {"teacher": teachers or "unknown"} | summary.facts | summary.statistics, ""


# Curves


@dataclass(frozen=True)
class LegendItem:
    """A color and the runs that have it."""

    name: str
    style: int


def _styles(runs: Sequence[Run], groups: Sequence[Group]) -> list[int]:
    """The number of the color of each run: that of its group, or its own where there is but one."""
    if len(groups) == 1:
        return list(range(len(runs)))
    of_run = {number: style for style, group in enumerate(groups) for number in group.runs}
    return [of_run[number] for number in range(len(runs))]


def _legend(runs: Sequence[Run], groups: Sequence[Group]) -> list[LegendItem]:
    if len(groups) == 1:
        return [LegendItem(run.name, style) for style, run in enumerate(runs)]
    return [
        LegendItem(f"{g.name}, {len(g.runs)} seeds" if len(g.runs) > 1 else g.name, style)
        for style, g in enumerate(groups)
    ]


def _charts(runs: Sequence[Run], groups: Sequence[Group], metrics: Sequence[str]) -> list[Chart]:
    """The curves of every metric that any run has; runs without epochs are drawn apart."""
    styles, charts = _styles(runs, groups), []
    shown = [*metrics[:1], "loss", "lr", "train_top1", *metrics[1:], *loss_parts(runs)]
    axes = {"epoch": "epochs (crops of each image)", "step": "steps"}
    for metric in shown:
        for axis, x_label in axes.items():
            curves = [
                Curve(run.name, style, run.curve(metric))
                for run, style in zip(runs, styles, strict=True)
                if run.x_axis == axis and run.curve(metric)
            ]
            if curves:
                title = {"lr": "learning rate"}.get(metric, label_of(metric))
                charts.append(draw_chart(title, x_label, curves))
    return charts


# Cells


def _few(names: Sequence[str]) -> str:
    """The first of many names, and how many there are beside them."""
    more = len(names) - _FEW_NAMES
    return ", ".join(names[:_FEW_NAMES]) + (f" and {more} more" if more > 0 else "")


def _names(runs: Sequence[Run]) -> list[str]:
    return [run.name for run in runs]


def _setting(value: Any) -> Cell:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(_text(value), float(value) if is_number else None)


def _text(value: Any) -> str:
    """A setting as it is written in YAML."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | dict):
        text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()
        return text
    return str(value).lower() if isinstance(value, bool) else str(value)


def _number(value: float | None, spec: str) -> Cell:
    return Cell(ABSENT) if value is None else Cell(format(value, spec), value)


def _rate(value: float | None) -> Cell:
    """A detector may take seconds for an image."""
    return _number(value, ",.0f" if value is None or value >= 10 else ".2g")


def _mean(value: tuple[float, float | None, int] | None, spec: str, of_deviation: str) -> Cell:
    if value is None:
        return Cell(ABSENT)
    center, deviation, _ = value
    more = "" if deviation is None else f" ± {deviation:{of_deviation}}"
    return Cell(f"{center:{spec}}{more}", center)


def _clock(seconds: float | None) -> Cell:
    """For example 1:02:03, which lines up in a column."""
    if seconds is None:
        return Cell(ABSENT)
    minutes, rest = divmod(round(seconds), 60)
    return Cell(f"{minutes // 60}:{minutes % 60:02}:{rest:02}", seconds)
