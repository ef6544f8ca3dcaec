"""A callback for pytorch-lightning on stored labels (extra `integrations`)."""

from typing import Any

from pytorch_lightning import Callback

from fkd.data.multicrop import MultiCropDataset


class AdvanceCrops(Callback):
    """Gives every pass its own crops, also after a resume.

    Lightning tells samplers which epoch it is, not data sets. It starts the worker processes of the
    first epoch before it calls that epoch's hook, so the data set learns that number when the run
    is set up, and in a resumed run from the checkpoint.

    Example:
        >>> from fkd import MultiCropDataset
        >>> from fkd.integrations.lightning import AdvanceCrops
        >>> from pytorch_lightning import Trainer
        >>> dataset = MultiCropDataset("photos", "labels", crops_per_image=2)
        >>> trainer = Trainer(max_epochs=25, callbacks=[AdvanceCrops(dataset)], logger=False)
    """

    def __init__(self, dataset: MultiCropDataset) -> None:
        """Args:
        dataset: what the loader reads.
        """
        self._dataset = dataset

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """A run begins, maybe with a data set that another run has used before."""
        if stage == "fit":
            self._dataset.set_epoch(trainer.current_epoch)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
        """A run is resumed, in the middle of an epoch or at the beginning of one."""
        self._dataset.set_epoch(_next_epoch(checkpoint["loops"]["fit_loop"]))

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """An epoch begins."""
        self._dataset.set_epoch(trainer.current_epoch)


def _next_epoch(loop: Any) -> int:
    """The epoch in which a run resumes, from the state of its loop.

    A checkpoint written after the last step of an epoch belongs to the next one, whether the epoch
    had been counted by then or not.
    """
    epochs = loop["epoch_progress"]["current"]
    counted = int(epochs["processed"])
    last_step_done = bool(loop["epoch_loop.batch_progress"]["is_last_batch"])
    return counted + 1 if last_step_done and counted < epochs["started"] else counted
