"""Labeling: from a folder of images and a teacher to a finished, audited label store.

A shard of images is the unit of work. It is computed in memory and committed whole, so a run that
is killed loses the shards in work and nothing else, and the same command goes on. Process r of R
computes the shards r, r + R, ...; all are the same bytes as one process would write.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby

from fkd.data.canary import make_canaries
from fkd.errors import FKDError, ImageError
from fkd.labeling.accuracy_check import TeacherAccuracy, measure_accuracy, require_accuracy
from fkd.labeling.audit import ProbeReport, audit_probes, require_agreement
from fkd.labeling.config import LabelConfig, describe_environment
from fkd.labeling.labels import LabeledBatch, assemble_shard
from fkd.labeling.numerics import exact_numerics
from fkd.labeling.precision_impact import PrecisionImpact, measure_precision_impact
from fkd.labeling.ranks import World, join_world
from fkd.labeling.setup import LabelSetup, RunConfig, build_setup
from fkd.store import LabeledCrops, LabelStore, StoreWriter

_SHOWN = 3  # unreadable images that an error message names


@dataclass(frozen=True)
class RunStart:
    """What is known when labeling starts.

    Attributes:
        setup: images, teachers and settings.
        accuracy: the teacher on a sample of the images; None when not measured.
        shift: what fast numerics do to labels; None where labels are exact or not computed now.
        num_crops: crops (of label maps: images) that this process has to label now.
        num_crops_done: crops that earlier runs have labeled.
        world_size: processes that share the work.
    """

    setup: LabelSetup
    accuracy: TeacherAccuracy | None
    shift: PrecisionImpact | None
    num_crops: int
    num_crops_done: int
    world_size: int


class Progress:
    """What a run tells while it works; this one listens in silence. Only process 0 tells."""

    def started(self, start: RunStart) -> None:
        """Labeling begins."""

    def advanced(self, num_crops: int) -> None:
        """So many more crops are labeled."""

    def auditing(self) -> None:
        """All shards are written; the audit begins."""


@dataclass(frozen=True)
class LabelResult:
    """A finished store.

    Attributes:
        path: its folder.
        root_hash: covers every byte of it.
        num_images: images in it, unreadable ones included.
        num_crops: crops per image.
        num_bytes: size of its shards, bytes.
        unreadable: what was wrong with the unreadable images that this run met.
        audit: the probe audit; None when it was skipped, or was done when the store was finished.
        shift: what fast numerics did to labels, measured before the start; None for exact ones.
        seconds: of this run, from the first image to the last label.
        leads: whether this process speaks for the run.
    """

    path: str
    root_hash: str
    num_images: int
    num_crops: int
    num_bytes: int
    unreadable: list[str]
    audit: ProbeReport | None
    shift: PrecisionImpact | None
    seconds: float
    leads: bool


def label(config: LabelConfig, progress: Progress | None = None) -> LabelResult:
    """Label images, or go on with it; ends with a finished store.

    Under torchrun every process calls this with the same arguments.

    Raises:
        ConfigError: a setting cannot work; nothing is written.
        TeacherError: a teacher cannot be loaded, is too inaccurate, or gives no usable output.
        ImageError: more images are unreadable than allowed. All other labels are kept; shards with
            unreadable images are not, so that they are labeled once the files are replaced.
        StoreError: the store cannot be written, or belongs to other settings; see its subclasses.
        RunError: another process of the run has ended.

    Example:
        >>> from fkd import ImagesConfig, LabelConfig, TeacherConfig, label
        >>> teacher = TeacherConfig("test_resnet", checkpoint="teacher.safetensors", input_size=32)
        >>> config = LabelConfig(
        ...     images=ImagesConfig(root="photos"), teacher=teacher, num_crops=4, out="new_labels"
        ... )
        >>> result = label(config)
        >>> result.num_images, result.num_crops
        (15, 4)
    """
    return run_labeling(partial(build_setup, config), config, progress)


def run_labeling(
    build_setup: Callable[[int, int], LabelSetup], config: RunConfig, progress: Progress | None
) -> LabelResult:
    """What `label` does, for any kind of labels.

    Args:
        build_setup: (forward passes side by side, number of the process on this machine) to what
            the run works with.
        config: of the run.
        progress: is told how far the work is.

    Raises:
        FKDError: as `label`.
    """
    with join_world() as world, exact_numerics() as passes:
        listener = progress if progress is not None and world.leads else Progress()
        setup = build_setup(passes, world.local_rank)
        finished = _is_finished(config.out)
        works = world.leads and not finished
        accuracy = _gate(setup) if works else None
        shift = _shift(setup) if works else None
        world.gather(None)  # nobody writes before the gate is passed
        with StoreWriter.open(
            config.out, setup.store_config, rank=world.rank, world_size=world.size
        ) as writer:
            listener.started(_describe_start(setup, writer, accuracy, shift, world))
            started = time.monotonic()
            unreadable = _label_pending(setup, writer, world, listener)
            seconds = time.monotonic() - started
            audit, root_hash = None, ""
            if works:
                listener.auditing()
                audit = _audit(setup)
                root_hash = _finish(setup, writer)
            root_hash = world.gather(root_hash)[0] or writer.finish()
        return _describe_result(config, root_hash, unreadable, audit, shift, seconds, world)


def _gate(setup: LabelSetup) -> TeacherAccuracy:
    """Measure the teacher before it labels anything."""
    config = setup.config
    report = measure_accuracy(
        setup.source,
        setup.teachers,
        config.gate_images,
        autocast=setup.autocast,
        parallelism=setup.parallelism,
    )
    require_accuracy(report, config.min_accuracy)
    return report


def _shift(setup: LabelSetup) -> PrecisionImpact | None:
    """What fast numerics do to labels; None for exact ones."""
    return None if setup.autocast is None else measure_precision_impact(setup, setup.autocast)


def _label_pending(
    setup: LabelSetup, writer: StoreWriter, world: World, listener: Progress
) -> list[str]:
    """Label this process's shards; returns what was wrong with the images of all processes.

    A shard with unreadable images, or crops that should be mixed with one, waits in memory until
    all are known: it is committed only if the run may end with them. Otherwise a replaced file
    would never get its label.
    """
    waiting: list[tuple[int, list[bytes], LabeledCrops]] = []
    reasons: set[str] = set()
    for number, batches in _labeled_shards(setup, writer.pending(), writer, listener):
        rows = [row for batch in batches for row in batch.starting]
        found = {row.reason for row in rows if row.reason}
        found.update(*(row.lost_partners for row in rows))
        reasons |= found
        keys, crops = assemble_shard(batches, setup.shape)
        if not found:
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


def _labeled_shards(
    setup: LabelSetup, numbers: Sequence[int], writer: StoreWriter, listener: Progress
) -> Iterator[tuple[int, list[LabeledBatch]]]:
    """Shards with all their labeled batches, in order."""
    places = ((n, i) for n in numbers for i in range(*writer.shard_range(n)))
    stream = _counted(setup.label(places), listener)
    for number, batches in groupby(stream, key=lambda batch: batch.shard):
        yield number, list(batches)


def _counted(batches: Iterator[LabeledBatch], listener: Progress) -> Iterator[LabeledBatch]:
    for batch in batches:
        listener.advanced(batch.num_crops)
        yield batch


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


def _audit(setup: LabelSetup) -> ProbeReport | None:
    """Compare labels, as they are on disk, with the teacher's word; refuse to finish otherwise."""
    config = setup.config
    if config.probes == 0:
        return None
    store = LabelStore.open(config.out, partial=True)
    report = audit_probes(
        store,
        setup.source,
        setup.teachers,
        config.probes,
        config.seed,
        autocast=setup.autocast,
        parallelism=setup.parallelism,
    )
    require_agreement(report, store)
    return report


def _finish(setup: LabelSetup, writer: StoreWriter) -> str:
    store = LabelStore.open(setup.config.out, partial=True)
    return writer.finish(describe_environment(setup.device), make_canaries(store, setup.source))


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
    shift: PrecisionImpact | None,
    world: World,
) -> RunStart:
    def crops(numbers: Sequence[int]) -> int:
        images = sum(stop - first for first, stop in map(writer.shard_range, numbers))
        return images * setup.crops_per_image

    total = len(setup.source) * setup.crops_per_image
    return RunStart(
        setup=setup,
        accuracy=accuracy,
        shift=shift,
        num_crops=crops(writer.pending()),
        num_crops_done=total - crops(writer.pending(0, 1)),
        world_size=world.size,
    )


def _describe_result(
    config: RunConfig,
    root_hash: str,
    unreadable: list[str],
    audit: ProbeReport | None,
    shift: PrecisionImpact | None,
    seconds: float,
    world: World,
) -> LabelResult:
    store = LabelStore.open(config.out)
    return LabelResult(
        path=config.out,
        root_hash=root_hash,
        num_images=store.num_images,
        num_crops=store.num_crops,
        num_bytes=store.num_bytes,
        unreadable=unreadable,
        audit=audit,
        shift=shift,
        seconds=seconds,
        leads=world.leads,
    )
