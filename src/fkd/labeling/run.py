"""Labeling: from a folder of images and a teacher to a finished, checked label store.

A shard of images is the unit of work. It is computed in memory and committed whole, so a run that
is killed loses the shards in work and nothing else, and the same command resumes. Process r of R
computes the shards r, r + R, ...; all are the same bytes as one process would write.

Label maps come from the same run: the teacher sees each whole image once, resized to its input
without regard to the aspect ratio so that the cells of the map cover all of it, and the largest
logits of every cell are kept. In training, labels of crops are pooled from the maps
(`fkd.labels.pooling`).

Source: FKD (Shen and Xing, ECCV 2022), Sec. 3.1; for maps Re-labeling ImageNet (Yun et al., CVPR
2021), Sec. 3.1, whose authors keep the 5 largest logits.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

from fkd.data.canary import make_canaries
from fkd.data.sources import ImageSource, remarks_of
from fkd.errors import CropMismatch, FKDError, ImageError
from fkd.labeling.accuracy_check import (
    TeacherAccuracy,
    describe_weakness,
    measure_accuracy,
    require_accuracy,
)
from fkd.labeling.config import LabelConfig, LabelMapsConfig, parse_shards
from fkd.labeling.identity import describe_environment
from fkd.labeling.image_checks import find_changed_shards
from fkd.labeling.labels import LabeledBatch, assemble_shard
from fkd.labeling.precision_impact import PrecisionImpact, measure_precision_impact
from fkd.labeling.ranks import World, join_world
from fkd.labeling.setup import Given, LabelSetup, build_setup, remarks_on_codec
from fkd.labeling.store_checks import CheckReport, require_agreement, spot_check
from fkd.models.numerics import exact_numerics
from fkd.store import (
    LabeledCrops,
    LabelStore,
    StoreWriter,
    require_own_folder,
    set_shards_aside,
)
from fkd.store.merge import forget_environment, note_environment

_SHOWN = 3  # unreadable images that an error message names


@dataclass(frozen=True)
class RunStart:
    """What is known when labeling starts.

    Attributes:
        setup: images, teachers and settings.
        accuracy: the teacher on a sample of the images; None when not measured.
        precision_impact: what fast numerics do to labels; None where labels are exact, or are not
            computed now.
        num_crops: crops (of label maps: images) that this process has to label now.
        num_crops_done: crops that earlier runs have labeled.
        world_size: processes that share the work.
    """

    setup: LabelSetup
    accuracy: TeacherAccuracy | None
    precision_impact: PrecisionImpact | None
    num_crops: int
    num_crops_done: int
    world_size: int


class Progress:
    """Is called by process 0 of a run while it works; this base class ignores every call."""

    def remark(self, text: str) -> None:
        """Something that the user may want to know, in one sentence."""

    def warn(self, text: str) -> None:
        """Something that is probably wrong, and the way out."""

    def started(self, start: RunStart) -> None:
        """Labeling begins."""

    def advanced(self, num_crops: int) -> None:
        """So many more crops are labeled."""

    def checking(self) -> None:
        """All shards are written; the spot checks begin."""


@dataclass(frozen=True)
class LabelResult:
    """A finished store, or with `shards` a part of one.

    Attributes:
        store: the store, open; `LabelStore.open(..., partial=True)` of a part.
        unreadable: what was wrong with the unreadable images that this run met.
        spot_checks: labels that were computed again; None when this was skipped, or done by the
            run that finished the store.
        precision_impact: what fast numerics did to labels, measured before the start; None for
            exact ones.
        accuracy: the teacher on a sample of the images; None when not measured.
        seconds: of this run, from the first image to the last label.
        leads: whether this process speaks for the run.
    """

    store: LabelStore
    unreadable: list[str]
    spot_checks: CheckReport | None
    precision_impact: PrecisionImpact | None
    accuracy: TeacherAccuracy | None
    seconds: float
    leads: bool


def label(
    config: LabelConfig, progress: Progress | None = None, given: Given | None = None
) -> LabelResult:
    """Label random crops of images, or resume; ends with a finished store.

    Under torchrun every process calls this with the same arguments.

    Args:
        config: the settings.
        progress: is told what happens.
        given: images and teachers in the place of those that the settings name.

    Raises:
        ConfigError: a setting cannot work; nothing is written.
        TeacherError: a teacher cannot be loaded, is too inaccurate, or gives no usable output.
        CropMismatch: images were changed since an earlier run has labeled them, see `repair`.
        ImageError: more images are unreadable than allowed. All other labels are kept; shards with
            unreadable images are not, so that they are labeled once the files are replaced.
        StoreError: the store cannot be written, or belongs to other settings; see its subclasses.
        RunError: another process of the run has ended.
    """
    with join_world() as world, exact_numerics() as passes:
        return run(build_setup(config, passes, world.local_rank, given), world, progress)


def label_maps(config: LabelMapsConfig, progress: Progress | None = None) -> LabelResult:
    """Make label maps of images, or resume; ends with a finished store.

    Raises:
        TeacherError: the teacher's classifier is no linear function of mean features; and whatever
            `label` raises.
    """
    with join_world() as world, exact_numerics() as passes:
        return run(build_setup(config, passes, world.local_rank), world, progress)


def run(setup: LabelSetup, world: World, progress: Progress | None = None) -> LabelResult:
    """Check the teacher, label what is missing, check the labels, finish the store.

    Raises:
        FKDError: as `label`.
    """
    listener = progress if progress is not None and world.leads else Progress()
    for remark in (*remarks_of(setup.source), *remarks_on_codec(setup)):
        listener.remark(remark)
    out = setup.config.out
    if world.leads:
        require_own_folder(out, setup.store_config)  # before the teacher is measured
    _require_labeled_images(setup, world, listener)
    finished = all(world.gather(_is_finished(out)))
    if finished:
        listener.remark(f"{out} is finished; there is nothing to label")
    works = world.leads and not finished
    accuracy = _check_accuracy(setup) if works else None
    autocast = setup.labeler.autocast
    impact = measure_precision_impact(setup, autocast) if works and autocast else None
    world.gather(None)  # no process writes before the teacher has passed
    identity = setup.store_config.source
    with StoreWriter.open(out, identity, rank=world.rank, world_size=world.size) as writer:
        listener.started(_describe_start(setup, writer, accuracy, impact, world))
        if accuracy is not None and (weakness := describe_weakness(accuracy)):
            listener.warn(weakness)
        started = time.monotonic()
        unreadable = _label_pending(setup, writer, world, listener)
        seconds = time.monotonic() - started
        spot_checks = None
        is_whole = not writer.pending(0, 1)
        if works:
            listener.checking()
        if works and is_whole:
            spot_checks = _check_labels(setup)
            finish_store(writer, setup.source, describe_environment(setup.device))
        elif works:
            note_environment(out, describe_environment(setup.device))
        world.gather(None)  # the store is finished
    store = LabelStore.open(out, partial=not is_whole)
    return LabelResult(store, unreadable, spot_checks, impact, accuracy, seconds, leads=world.leads)


def finish_store(writer: StoreWriter, source: ImageSource, environment: Mapping[str, Any]) -> None:
    """Add canaries and write the manifest of a store whose shards are all there.

    Raises:
        CropMismatch: an image was changed since it was labeled.
        StoreError: a shard is damaged, or the manifest cannot be written.
    """
    canaries = make_canaries(LabelStore.open(writer.path, partial=True), source)
    forget_environment(writer.path)
    writer.finish(environment, [canary.in_manifest() for canary in canaries])


def _require_labeled_images(setup: LabelSetup, world: World, listener: Progress) -> None:
    """Compare what earlier runs have labeled with the images of now, before anything is labeled.

    Otherwise the last check would refuse the store when all the work is done.
    """
    config, identity = setup.config, setup.store_config
    shards, description = find_changed_shards(
        config.out, identity, setup.source, world, config.num_workers
    )
    if not shards:
        return
    if not config.repair:
        raise CropMismatch(
            f"images were changed since {config.out} has labels of them: {description}. Restore "
            "the files, or add --repair to label these shards again and keep all others"
        )
    if world.leads:
        set_shards_aside(config.out, shards)
        listener.remark(f"images were changed and are labeled again: {description}")
    world.gather(None)


def _check_accuracy(setup: LabelSetup) -> TeacherAccuracy | None:
    """Measure the teacher before it labels anything, if it knows classes."""
    if not setup.teachers.is_classifier:
        return None
    report = measure_accuracy(
        setup.source,
        setup.teachers,
        setup.config.accuracy_images,
        autocast=setup.labeler.autocast,
        parallelism=setup.parallelism,
    )
    require_accuracy(report, setup.config.min_accuracy)
    return report


def _label_pending(
    setup: LabelSetup, writer: StoreWriter, world: World, listener: Progress
) -> list[str]:
    """Label this process's shards; returns what was wrong with the images of all processes.

    A shard with unreadable images waits in memory until all are known: it is committed only if the
    run may end with them. Otherwise a replaced file would never get its label.
    """
    waiting: list[tuple[int, list[bytes], LabeledCrops]] = []
    reasons: set[str] = set()
    numbers = _pending(setup, writer, world.rank, world.size)
    for number, batches in _labeled_shards(setup, numbers, writer, listener):
        rows = [row for batch in batches for row in batch.starting]
        faults = {row.reason for row in rows if row.reason}
        reasons |= faults
        keys, crops = assemble_shard(batches, setup.store_config)
        if not faults:
            writer.commit(number, keys, crops)
        elif len(reasons) <= setup.config.max_unreadable:
            waiting.append((number, keys, crops))
        else:
            waiting.clear()
    everywhere = sorted(set(chain.from_iterable(world.gather(sorted(reasons)))))
    _require_readable(everywhere, setup)
    for number, keys, crops in waiting:
        writer.commit(number, keys, crops)
    world.gather(None)
    return everywhere


def _pending(setup: LabelSetup, writer: StoreWriter, rank: int, size: int) -> list[int]:
    """Shards that a process of the run has to write: of all, or of those that were asked for."""
    if setup.config.shards is None:
        return writer.pending(rank, size)
    wanted = parse_shards(setup.config.shards)(writer.num_shards)
    return [number for number in wanted[rank::size] if not writer.is_committed(number)]


def _labeled_shards(
    setup: LabelSetup, numbers: Sequence[int], writer: StoreWriter, listener: Progress
) -> Iterator[tuple[int, list[LabeledBatch]]]:
    """Shards with all their labeled batches, in order."""
    places = ((n, i) for n in numbers for i in range(*writer.shard_range(n)))
    for number, stream in groupby(setup.label(places), key=lambda batch: batch.shard):
        batches = []
        for batch in stream:
            listener.advanced(batch.num_crops)
            batches.append(batch)
        yield number, batches


def _require_readable(reasons: Sequence[str], setup: LabelSetup) -> None:
    if len(reasons) <= setup.config.max_unreadable:
        return
    first = "; ".join(reasons[:_SHOWN])
    more = f"; and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
    raise ImageError(
        f"{len(reasons)} of {len(setup.source)} images cannot be labeled: {first}{more}. Put "
        "readable files in their place and run the same command, which keeps all other labels, or "
        f"allow them with --max_unreadable {len(reasons)}"
    )


def _check_labels(setup: LabelSetup) -> CheckReport | None:
    """Compute some labels again and compare them with those on disk; refuse to finish otherwise."""
    if setup.config.spot_checks == 0:
        return None
    store = LabelStore.open(setup.config.out, partial=True)
    num, parallelism = setup.config.spot_checks, setup.parallelism
    report = spot_check(store, setup.source, setup.teachers, num, parallelism=parallelism)
    require_agreement(report, store)
    return report


def _is_finished(path: str) -> bool:
    try:
        LabelStore.open(path)
    except FKDError:
        return False  # whatever is wrong with it, the writer says so
    return True


def _describe_start(
    setup: LabelSetup,
    writer: StoreWriter,
    accuracy: TeacherAccuracy | None,
    impact: PrecisionImpact | None,
    world: World,
) -> RunStart:
    def crops(numbers: Sequence[int]) -> int:
        images = sum(stop - first for first, stop in map(writer.shard_range, numbers))
        return images * setup.passes_per_image

    total = len(setup.source) * setup.passes_per_image
    return RunStart(
        setup=setup,
        accuracy=accuracy,
        precision_impact=impact,
        num_crops=crops(_pending(setup, writer, world.rank, world.size)),
        num_crops_done=total - crops(writer.pending(0, 1)),
        world_size=world.size,
    )
