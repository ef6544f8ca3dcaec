"""Where the time of a training step goes: stages of the real code, observed from outside.

While a context of this module lasts, functions that training calls anyway are replaced by
themselves with a stage around them; before and after it they are what they always are, so training
pays nothing for being observable. Stages nest, and each second belongs to the innermost one:

    loader   crop (boxes, cut, resize, flip)
               read (the file and its checksum)
                 decode
               label_preparation (which stored crops, decoding; of maps: pooling)
                 label_read (the store, checked)
    step     wait (what is left of it after the loader's own stages, where it works inline)
             transfer (to the device, normalized), label_preparation, teacher, forward, loss,
             backward, optimizer

Source: FKD (Shen and Xing, ECCV 2022), Fig. 5.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any

import fkd.data.batches
import fkd.data.maps
import fkd.data.sources
from fkd.data.batches import Batch, CropCutter
from fkd.data.crop_sources import StoredCropSource
from fkd.data.workers import in_worker
from fkd.engine.loop import LoopConfig
from fkd.engine.state import TrainState
from fkd.methods.online import OnlineTeacher
from fkd.store import LabelStore

LOADER_STAGES = ("read", "decode", "crop", "label_read", "label_preparation")
"""Stages of the loader, which work beside the step where it has workers."""
STEP_STAGES = (
    *("wait", "transfer", "label_preparation", "teacher"),
    *("forward", "loss", "backward", "optimizer"),
)
"""Stages of the step itself."""
ALL_STAGES = tuple(dict.fromkeys((*LOADER_STAGES, *STEP_STAGES)))

Place = tuple[Any, str, str]
"""A module, class or object, the name of a function of it, and the stage that this is."""

_IN_THE_LOADER: list[Place] = [
    (fkd.data.batches, "load", "read"),
    (fkd.data.sources, "decode_image", "decode"),
    (StoredCropSource, "select", "label_preparation"),
    (fkd.data.maps, "roi_align_weights", "label_preparation"),
    (fkd.data.maps, "pool_maps", "label_preparation"),
    (LabelStore, "read", "label_read"),
]
_clock: ContextVar["StageClock | None"] = ContextVar("clock", default=None)  # of each thread
_loader_is_observed = False  # in this process
_of_a_worker = ExitStack()  # never left: the process ends with its loader


class StageClock:
    """The seconds of named stages; each second belongs to the innermost stage that is open.

    Attributes:
        seconds: of each stage so far.

    Args:
        clock: the time, seconds.
        synchronize: waits for a device that computes on its own; called before the clock is read.

    Example:
        >>> times = iter([0.0, 1.0, 4.0, 4.5])
        >>> stages = StageClock(lambda: next(times))
        >>> with stages.stage("read"):
        ...     with stages.stage("decode"):
        ...         pass
        >>> stages.seconds
        {'read': 1.5, 'decode': 3.0}
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        synchronize: Callable[[], None] | None = None,
    ) -> None:
        self.seconds: dict[str, float] = {}
        self._time = clock
        self._synchronize = synchronize
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What happens inside belongs to this stage, unless to one inside it."""
        self._credit()
        self._open.append(name)
        try:
            yield
        finally:
            self._credit()
            self._open.pop()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Observed functions that this thread calls inside are stages of this clock."""
        token = _clock.set(self)
        try:
            yield
        finally:
            _clock.reset(token)

    def _credit(self) -> None:
        """The time since the last change of stages goes to the stage that was open."""
        if self._synchronize is not None:
            self._synchronize()
        now = self._time()
        if self._open:
            name = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


@dataclass(frozen=True)
class TimedBatch(Batch):
    """A batch that says what it took.

    Attributes:
        seconds: of each stage of the loader, in the thread or process that built it.
    """

    seconds: dict[str, float] = field(default_factory=dict)


class TimedCutter(CropCutter):
    """A cutter whose batches say what they took; works in any thread or process.

    Args:
        cutter: does the work.
    """

    def __init__(self, cutter: CropCutter) -> None:
        vars(self).update(vars(cutter))

    def cut(self, images: Sequence[int], start: int, crops_per_image: int) -> TimedBatch:
        """The same batch, with its times where the loader is observed."""
        if in_worker() and not _loader_is_observed:  # a process that was spawned, not forked
            _of_a_worker.enter_context(observed_loader())
        clock = StageClock()
        with clock.running(), clock.stage("crop"):
            batch = super().cut(images, start, crops_per_image)
        return TimedBatch(**vars(batch), seconds=clock.seconds)


@contextmanager
def observed_loader() -> Iterator[None]:
    """The functions of the loader are stages, in threads whose clock is running."""
    global _loader_is_observed
    with _observed(_IN_THE_LOADER):
        _loader_is_observed = True
        try:
            yield
        finally:
            _loader_is_observed = False


@contextmanager
def observed_step(config: LoopConfig, state: TrainState, clock: StageClock) -> Iterator[LoopConfig]:
    """Everything that `fkd.engine.loop.run` is handed, as stages of a running clock.

    Returns:
        The settings to run with; the state stays itself.
    """
    places: list[Place] = [
        (Batch, "to", "transfer"),
        (Batch, "pin_memory", "transfer"),
        (config.method, "targets", "label_preparation"),
        (OnlineTeacher, "answer", "teacher"),
        (state.prepared, "forward", "forward"),
        (config.method, "loss", "loss"),
        (state.accelerator, "backward", "backward"),
        (state.optimizer, "step", "optimizer"),
        (state.optimizer, "zero_grad", "optimizer"),
    ]
    with _observed(places), clock.running():
        yield replace(config, normalize=_as_stage(config.normalize, "transfer"))


@contextmanager
def _observed(places: Iterable[Place]) -> Iterator[None]:
    """Functions replaced by themselves with a stage around them."""
    with ExitStack() as undo:
        for owner, name, stage in places:
            if name in vars(owner):
                undo.callback(setattr, owner, name, vars(owner)[name])
            else:  # of an object, whose class has it
                undo.callback(delattr, owner, name)
            setattr(owner, name, _as_stage(getattr(owner, name), stage))
        yield


def _as_stage(function: Callable[..., Any], stage: str) -> Callable[..., Any]:
    @wraps(function)
    def observed(*args: Any, **kwargs: Any) -> Any:
        clock = _clock.get()
        if clock is None:
            return function(*args, **kwargs)
        with clock.stage(stage):
            return function(*args, **kwargs)

    return observed
