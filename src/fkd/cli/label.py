"""`fkd label` and `fkd plan`: the teacher's one run, and what it will cost."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.text import Text

from fkd.labeling import (
    CostEstimate,
    ImportMapsConfig,
    LabelConfig,
    LabelMapsConfig,
    LabelResult,
    Progress,
    RunStart,
)
from fkd.labeling import import_maps as read_maps
from fkd.labeling import label as run_label
from fkd.labeling import label_maps as make_maps
from fkd.labeling import plan as make_plan
from fkd.models.classes import display_names

_SECONDS_BETWEEN_LINES = 10.0  # of progress, where nobody watches a terminal
_NAMES_SHOWN = 4


def label(config: LabelConfig) -> None:
    """Run a teacher over random crops of all images and write a label store.

    Safe to kill: the same command goes on. Under torchrun the processes share the work.
    """
    console = Console(highlight=False, soft_wrap=True)
    with LabelReporter(console, "crops") as reporter:
        result = run_label(config, reporter)
    if result.leads:
        _print_result(result, console)


def label_maps(config: LabelMapsConfig) -> None:
    """Run a teacher once over every whole image and write a store of label maps (ReLabel).

    Train from it by `fkd train --method relabel`. Safe to kill: the same command goes on.
    """
    console = Console(highlight=False, soft_wrap=True)
    with LabelReporter(console, "images") as reporter:
        result = make_maps(config, reporter)
    if result.leads:
        _print_maps_result(result, console)


def import_maps(config: ImportMapsConfig) -> None:
    """Write a store of label maps from maps that others released (ReLabel), without a teacher.

    No code of these files is run. Safe to kill: the same command goes on.
    """
    console = Console(highlight=False, soft_wrap=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("images", total=None)
        done = read_maps(config, lambda num_images: bar.advance(task, num_images))
    if done.num_known:
        share = done.num_right / done.num_known
        console.print(f"classes   the map is right on {share:.1%} of {done.num_known:,} images")
    console.print(
        f"finished  {done.path}: {done.num_images:,} label maps of {done.grid[0]} x {done.grid[1]} "
        f"cells, {done.num_bytes:,} bytes ({done.num_bytes / done.num_images:.0f} per image)"
    )
    console.print(f"root hash {done.root_hash}")


def plan(config: LabelConfig) -> None:
    """Say what labeling will cost - bytes, teacher crops, hours - and write nothing."""
    _print_plan(make_plan(config), config, Console(highlight=False, soft_wrap=True))


class _Speed(ProgressColumn):
    """Crops, or whatever the task counts, per second since the start."""

    def render(self, task: Task) -> Text:
        speed = task.completed / task.elapsed if task.elapsed else 0
        return Text(f"{speed:.0f} {task.description}/s")


class LabelReporter(Progress):
    """Shows a run on a terminal, or as plain lines elsewhere; `unit` is what it counts."""

    def __init__(self, console: Console, unit: str) -> None:
        self._console = console
        self._unit = unit
        self._bar: Bar | None = None
        self._started = self._last_line = 0.0
        self._done = self._total = 0

    def __enter__(self) -> "LabelReporter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def started(self, start: RunStart) -> None:
        """Say what is going to be done, and show a bar."""
        _print_start(start, self._console)
        self._total = start.num_crops
        self._started = self._last_line = time.monotonic()
        if self._console.is_terminal and self._total:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            times = (_Speed(), TimeRemainingColumn(elapsed_when_finished=True))
            self._bar = Bar(*columns, *times, console=self._console)
            self._bar.add_task(self._unit, total=self._total)
            self._bar.start()

    def advanced(self, num_crops: int) -> None:
        """Move the bar, or print a line from time to time."""
        self._done += num_crops
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], num_crops)
        elif time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._console.print(self._line())

    def auditing(self) -> None:
        """All labels are there."""
        self._stop()
        if self._done:
            self._console.print(self._line())

    def _line(self) -> str:
        speed = self._done / (time.monotonic() - self._started)
        left = (self._total - self._done) / speed if speed else 0.0
        return (
            f"{self._done:,} of {self._total:,} {self._unit}, {speed:.0f} {self._unit}/s, "
            f"{_duration(left)} left"
        )

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _print_start(start: RunStart, console: Console) -> None:
    session = start.setup
    for teacher in session.store_config["teachers"]:
        console.print(
            f"teacher   {teacher['name']}, {teacher['input_size']} pixels, "
            f"{teacher['interpolation']}, weights {teacher['weights_sha256'][:12]}"
        )
    for loaded in session.teachers.teachers:
        if loaded.num_unfolded and not loaded.num_folded:
            console.print(
                f"          none of the {loaded.num_unfolded} batch norms of {loaded.name} can be "
                "folded into a convolution, which would save time on a CPU"
            )
    names = display_names(session.store_config["class_names"])
    more = ", ..." if len(names) > _NAMES_SHOWN else ""
    console.print(f"classes   {len(names):,}: {', '.join(names[:_NAMES_SHOWN])}{more}")
    if start.accuracy is not None:
        console.print(f"accuracy  {start.accuracy}")
    if start.shift is not None:
        console.print(f"numerics  {start.shift}")
        console.print(f"          {start.shift.verdict}")
    console.print(f"images    {len(session.source):,} in {session.source.root}")
    processes = f", {start.world_size} processes" if start.world_size > 1 else ""
    done = start.num_crops_done
    earlier = f", {done:,} labeled earlier" if done else ""
    identity = session.store_config
    grid = identity.get("grid")
    each = f"maps of {grid[0]} x {grid[1]} cells" if grid else f"{identity['num_crops']} crops"
    console.print(
        f"store     {session.config.out}: {each} per image, "
        f"{identity['codec']} {identity.get('value_dtype', '')}".rstrip()
        + f"{earlier}{processes}"
    )


def _print_result(result: LabelResult, console: Console) -> None:
    num_crops = result.num_images * result.num_crops
    _print_findings(result, console)
    console.print(
        f"finished  {result.path}: {result.num_images:,} images x {result.num_crops} crops, "
        f"{result.num_bytes:,} bytes ({result.num_bytes / num_crops:.1f} per crop)"
    )
    console.print(f"root hash {result.root_hash}")


def _print_maps_result(result: LabelResult, console: Console) -> None:
    _print_findings(result, console)
    console.print(
        f"finished  {result.path}: {result.num_images:,} label maps of {result.num_crops} cells, "
        f"{result.num_bytes:,} bytes ({result.num_bytes / result.num_images:.0f} per image)"
    )
    console.print(f"root hash {result.root_hash}")


def _print_findings(result: LabelResult, console: Console) -> None:
    for reason in result.unreadable:
        console.print(f"unreadable {reason}")
    if result.audit is not None:
        console.print(f"audit     {result.audit}")


def _print_plan(found: CostEstimate, config: LabelConfig, console: Console) -> None:
    per_crop = found.num_bytes / found.num_crops
    about = "about " if config.form == "compact" else ""
    console.print(
        f"images    {found.num_images:,} x {config.num_crops} crops = {found.num_crops:,} crops of "
        f"{found.num_classes:,} classes, {config.codec}"
    )
    console.print(
        f"bytes     {about}{found.num_bytes:,} ({_size(found.num_bytes)}, {per_crop:.1f} per crop) "
        f"in {found.num_shards:,} shards"
    )
    console.print(
        f"teacher   {_duration(found.teacher_seconds)} for one process at "
        f"{found.crops_per_second:.0f} crops/s, measured here on these images"
    )


def _size(num_bytes: int) -> str:
    value, unit = float(num_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
