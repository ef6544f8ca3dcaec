"""The Trainer of Hugging Face transformers on stored labels (extra `integrations`)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from transformers import Trainer, TrainerCallback, default_data_collator

from fkd.data.multicrop import collate_crops
from fkd.integrations.epochs import set_epoch
from fkd.labels.losses import SoftTargetLoss
from fkd.labels.targets import SoftTargets


def collate_for_trainer(items: Sequence[Any]) -> Mapping[str, Any]:
    """A batch as models of transformers take it: {"pixel_values", "labels"}.

    Items of a `MultiCropDataset` become crops float32 (B * m, 3, S, S) and their `SoftTargets`;
    anything else, such as the dicts of a data set for evaluation, goes to transformers' own.
    """
    if isinstance(items[0], tuple) and isinstance(items[0][1], SoftTargets):
        crops, targets = collate_crops(items)
        return {"pixel_values": crops, "labels": targets}
    batch: Mapping[str, Any] = default_data_collator(list(items))
    return batch


class SoftTargetMixin:
    """Lets a Trainer learn from soft labels; put it before your own subclass of Trainer.

    * The loss is the soft cross-entropy of sparse labels, or that of class ids, where batches have
      these. Models of transformers would take labels of floats for several classes per image and
      choose a binary loss.
    * Batches of an accumulated step count equally. With `compute_loss_func` the gradient would be
      larger by their number: the Trainer leaves the division to such a function.
    * Every pass has its own crops, with several processes and after a resume, too.
    * `remove_unused_columns` is switched off and `collate_for_trainer` is the default collator.

    Example:
        class MyTrainer(SoftTargetMixin, Trainer): ...
    """

    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: Any = None,
        args: Any = None,
        *,
        data_collator: Any = collate_for_trainer,
        soft_target_loss: SoftTargetLoss | None = None,
        **others: Any,
    ) -> None:
        """As of a Trainer.

        Args:
            model: of image classification, with outputs that have `logits`.
            args: TrainingArguments.
            data_collator: makes batches of items.
            soft_target_loss: by default `SoftTargetLoss()`.
            others: whatever else a Trainer takes.
        """
        if args is not None:
            args.remove_unused_columns = False
        others |= {"model": model, "args": args, "data_collator": data_collator}
        super().__init__(**others)
        self._soft_target_loss = soft_target_loss or SoftTargetLoss()
        self.add_callback(_EveryPassHasItsCrops())  # type: ignore[attr-defined]

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any
    ) -> Tensor | tuple[Tensor, Any]:
        """The mean loss of a batch, and the outputs if they are wanted."""
        labels = inputs["labels"]
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        if isinstance(labels, SoftTargets):
            loss = self._soft_target_loss(outputs.logits, labels)
        else:
            loss = F.cross_entropy(outputs.logits, labels)
        return (loss, outputs) if return_outputs else loss


class SoftTargetTrainer(SoftTargetMixin, Trainer):  # type: ignore[misc]
    """A Trainer that learns from a `MultiCropDataset`; see `SoftTargetMixin`."""


class _EveryPassHasItsCrops(TrainerCallback):
    """Tells the loader which pass comes, which accelerate does not do in all cases."""

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        set_epoch(given["train_dataloader"], int(state.epoch or 0))
