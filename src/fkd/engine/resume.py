"""Puts a run where its newest checkpoint left it."""

from collections.abc import Callable
from pathlib import Path

import torch

from fkd.engine.checkpoint import Checkpoints, State
from fkd.engine.state import TrainState
from fkd.errors import RunError


def resume(
    state: TrainState,
    checkpoints: Checkpoints,
    warn: Callable[[str], None],
    *,
    resume_from: str | None,
) -> State | None:
    """Put the state of the newest checkpoint in place; returns it, None where there is none.

    Args:
        state: of the run, before its first step.
        checkpoints: of the run.
        warn: told of a checkpoint that was passed over.
        resume_from: see `Checkpoints.load_newest`.

    Raises:
        RunError: a checkpoint cannot be read or used, or processes read different ones.
    """
    resumed = checkpoints.load_newest(
        warn, resume_from=None if resume_from is None else Path(resume_from)
    )
    if resumed is not None:
        try:
            state.load_state(resumed)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise RunError(
                f"the newest checkpoint in {checkpoints.folder} does not fit the student or this "
                f"version of fkd: {' '.join(str(error).split())}; give another --out"
            ) from error
    # All have read before the main process writes the next one.
    here = torch.tensor([state.step], device=state.accelerator.device)
    steps = set(state.accelerator.gather(here).tolist())
    if len(steps) > 1:
        raise RunError(
            f"the processes of this run find checkpoints of different steps in "
            f"{checkpoints.folder.parent} ({min(steps)} and {max(steps)}); give an --out that all "
            "of them share"
        )
    return resumed
