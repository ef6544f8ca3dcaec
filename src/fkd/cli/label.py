"""`fkd plan`, `fkd label`, `fkd label-maps`, `fkd import-labels`: label stores and their cost."""

import time
from contextlib import closing

from rich.console import Console
from rich.progress import Progress as Bar
from rich.progress import ProgressColumn, Task
from rich.text import Text

from fkd.cli.console import (
    format_duration,
    format_size,
    make_bar,
    make_console,
    print_below,
    print_remark,
    print_warning,
)
from fkd.labeling.config import LabelConfig, LabelMapsConfig
from fkd.labeling.estimate import CostEstimate, PlanConfig
from fkd.labeling.estimate import plan as make_plan
from fkd.labeling.foreign.run import ImportConfig, check_axes, require_axes
from fkd.labeling.foreign.run import import_labels as read_labels
from fkd.labeling.run import LabelResult, Progress, RunStart
from fkd.labeling.run import label as run_label
from fkd.labeling.run import label_maps as make_maps
from fkd.models.classes import display_names
from fkd.store import LabelStore

_SECONDS_BETWEEN_LINES = 10.0  # of progress, outside a terminal
_NAMES_SHOWN = 4


def label(config: LabelConfig) -> None:
    """Run a teacher over random crops of all images and write a label store.

    Safe to kill: the same command resumes. Under torchrun the processes share the work.
    """
    console = make_console()
    with closing(LabelReporter(console, "crops")) as reporter:
        result = run_label(config, reporter)
    print_result(result, config.out, console)


def label_maps(config: LabelMapsConfig) -> None:
    """Run a teacher once over every whole image and write a store of label maps (ReLabel).

    Train from it by `fkd train --method relabel`. Safe to kill: the same command resumes.
    """
    console = make_console()
    with closing(LabelReporter(console, "images")) as reporter:
        result = make_maps(config, reporter)
    print_result(result, config.out, console)


def import_labels(config: ImportConfig) -> None:
    """Write a store of labels that others have made, without a teacher.

    fkd: a file for each image, as the official code writes them; ml-dr: Apple's reinforced data
    sets of random crops; relabel: released label maps. No code of these files is run. Safe to
    kill: the same command resumes. Prove the labels by `fkd verify STORE --images.root ...
    --teacher.name ...`, which needs what you state of the teacher here. Released maps do not say
    whether cells are (row, column) or (column, row): --axes_teacher.name NAME asks a network.
    """
    console = make_console()
    axes = check_axes(config)
    if axes is not None:
        print_below(console, "axes", axes.describe(swap_xy=config.swap_xy))
        require_axes(axes, config)
    with make_bar(console) as bar:
        task = bar.add_task("images", total=None)
        done = read_labels(config, lambda num_images: bar.advance(task, num_images))
    if done.num_known:
        share = done.num_right / done.num_known
        console.print(
            f"classes   the labels of {share:.1%} of {done.num_known:,} images have their folder's "
            "class as the largest one"
        )
    if done.num_inexact:
        print_warning(
            console,
            f"{done.num_inexact:,} images have a side above 2,048 pixels, for which boxes in half "
            "floats may be a pixel off",
        )
    print_store(done.store, config.out, console)


def plan(config: PlanConfig) -> None:
    """Print what labeling will cost - bytes, teacher crops, hours - and write nothing.

    Also for more images than are at hand (--for_images), other machines (--crops_per_second) and
    several devices (--num_devices).
    """
    cost, console = make_plan(config), make_console()
    for remark in cost.remarks:
        print_remark(console, remark)
    _print_plan(cost, config, console)


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

    def remark(self, text: str) -> None:
        """Print a line that begins with "note"."""
        print_remark(self._console, text)

    def warn(self, text: str) -> None:
        """Print a line that begins with "warning"."""
        print_warning(self._console, text)

    def started(self, start: RunStart) -> None:
        """Say what is going to be done, and show a bar."""
        _print_start(start, self._console)
        self._total = start.num_crops
        self._started = self._last_line = time.monotonic()
        if self._console.is_terminal and self._total:
            self._bar = make_bar(self._console, _Speed(), transient=False)
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

    def checking(self) -> None:
        """All labels are there."""
        self.close()
        if self._done:
            self._console.print(self._line())

    def _line(self) -> str:
        speed = self._done / (time.monotonic() - self._started)
        left = (self._total - self._done) / speed if speed else 0.0
        return (
            f"{self._done:,} of {self._total:,} {self._unit}, {speed:.0f} {self._unit}/s, "
            f"{format_duration(left)} left"
        )

    def close(self) -> None:
        """Stop the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _print_start(start: RunStart, console: Console) -> None:
    setup, stored = start.setup, start.setup.store_config
    for teacher in stored.source["teachers"]:
        console.print(
            f"teacher   {teacher['name']}, {teacher['input_size']} pixels, "
            f"{teacher['interpolation']}, weights {teacher['weights_sha256'][:12]}"
        )
        if "license" in teacher:
            console.print(f"license   {teacher['license']}, of the weights of {teacher['name']}")
    for loaded in setup.teachers.teachers:
        if loaded.num_unfolded and not loaded.num_folded:
            console.print(
                f"          none of the {loaded.num_unfolded} batch norms of {loaded.name} can be "
                "folded into a convolution, which would save time on a CPU"
            )
    names = display_names(stored.class_names)
    more = ", ..." if len(names) > _NAMES_SHOWN else ""
    if names:
        console.print(f"classes   {len(names):,}: {', '.join(names[:_NAMES_SHOWN])}{more}")
    else:
        whole = stored.provenance.projection
        origin = f", projected from {whole.num_features:,}" if whole else ""
        console.print(f"features  {stored.num_classes:,}{origin}, which are no classes")
    if start.accuracy is not None:
        console.print(f"accuracy  {start.accuracy}")
    if start.precision_impact is not None:
        console.print(f"numerics  {start.precision_impact}")
        console.print(f"          {start.precision_impact.advice}")
    console.print(f"images    {len(setup.source):,} in {setup.source.root}")
    processes = f", {start.world_size} processes" if start.world_size > 1 else ""
    done = start.num_crops_done
    earlier = f", {done:,} labeled earlier" if done else ""
    grid = stored.grid
    each = f"maps of {grid[0]} x {grid[1]} cells" if grid else f"{stored.num_crops} crops"
    console.print(
        f"store     {setup.config.out}: {each} per image, "
        f"{stored.codec.name} {stored.value_dtype or ''}".rstrip()
        + f"{earlier}{processes}"
    )


def print_result(result: LabelResult, out: str, console: Console) -> None:
    """What was done, if this process speaks for the run."""
    if not result.leads:
        return
    for reason in result.unreadable:
        console.print(f"unreadable {reason}")
    if result.spot_checks is not None:
        console.print(f"checked   {result.spot_checks}")
    if result.accuracy is not None and result.accuracy.num:
        console.print(f"accuracy  {result.accuracy}")
    if result.store.root_hash is None:
        _print_part(result.store, out, console)
        return
    print_store(result.store, out, console)


def _print_part(store: LabelStore, out: str, console: Console) -> None:
    """What a folder of some shards holds, and what to do with it."""
    images = sum(len(rows) for rows in store.committed)
    console.print(
        f"part      {out}: {len(store.committed):,} shards with {images:,} of "
        f"{store.num_images_in_all:,} images; label the others elsewhere, then fkd merge {out} ... "
        "--images.root ... --out ..."
    )


def print_store(store: LabelStore, out: str, console: Console) -> None:
    """What a finished store holds, its bytes and its root hash."""
    if store.grid is None:
        content = f"images x {store.num_crops} crops"
        share = f"{store.num_bytes / (store.num_images * store.num_crops):.1f} per crop"
    else:
        content = f"label maps of {store.grid[0]} x {store.grid[1]} cells"
        share = f"{store.num_bytes / store.num_images:.0f} per image"
    console.print(
        f"finished  {out}: {store.num_images:,} {content}, {store.num_bytes:,} bytes ({share})"
    )
    console.print(f"root hash {store.root_hash}")


def _describe_epochs(num_crops: int) -> str:
    """How the crops of a store and the epochs of a training run go together."""
    single = f"M = {num_crops}, epochs = {num_crops}: every crop once"
    if num_crops == 1:
        return f"{single}; more epochs show the same crop again"
    return f"{single}; epochs = {2 * num_crops}: every crop twice; fewer leave crops unused"


def _print_plan(cost: CostEstimate, config: PlanConfig, console: Console) -> None:
    per_crop = cost.num_bytes / cost.num_crops
    about = "about " if config.form == "compact" else ""
    console.print(
        f"images    {cost.num_images:,} x {config.num_crops} crops = {cost.num_crops:,} crops of "
        f"{cost.num_classes:,} {'classes' if cost.is_of_classes else 'dimensions'}, {cost.codec}"
    )
    console.print(f"epochs    {_describe_epochs(config.num_crops)}")
    console.print(
        f"bytes     {about}{cost.num_bytes:,} ({format_size(cost.num_bytes)}, "
        f"{per_crop:.1f} per crop) in {cost.num_shards:,} shards"
    )
    devices = "one process" if cost.num_devices == 1 else f"{cost.num_devices:,} processes"
    origin = "as given" if config.crops_per_second else "measured here on these images"
    console.print(
        f"teacher   {format_duration(cost.seconds)} for {devices} at "
        f"{cost.crops_per_second:,.0f} crops/s{' each' if cost.num_devices > 1 else ''}, {origin}"
    )
    console.print(
        f"threads   {config.num_workers} decode and cut {cost.cut_per_second:,.0f} crops/s here "
        f"without the teacher; {cost.crops_per_second:,.0f} crops/s need "
        f"{cost.threads_needed(config.num_workers):,} (--num_workers)"
    )
