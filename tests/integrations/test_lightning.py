"""The callback of pytorch-lightning: a resumed run sees the crops that are left."""

import time

import pytest
import pytorch_lightning as pl
import timm
import torch
from torch.utils.data import DataLoader

from fkd import MultiCropDataset, SoftTargetLoss, collate_crops
from fkd.integrations.lightning import AdvanceCrops

pytestmark = [
    pytest.mark.filterwarnings("ignore:.isinstance.treespec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
]


class Student(pl.LightningModule):
    """Remembers the first pixels of each batch, which tell the crops apart."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = timm.create_model("test_resnet", num_classes=4)
        self.seen = []

    def training_step(self, batch, batch_idx):
        crops, targets = batch
        self.seen.append((self.current_epoch, crops[:, 0, 0, 0].tolist()))
        loss = SoftTargetLoss()(self.model(crops), targets)
        self.log("loss", loss, batch_size=len(targets))
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    image_folder,
    label_store,
    folder,
    every,
    resume_from=None,
    num_workers=0,
    first_epoch=0,
    callbacks=(),
    **options,
):
    dataset = MultiCropDataset(image_folder, label_store, crops_per_image=2, size=32)
    dataset.set_epoch(first_epoch)
    loader = DataLoader(
        dataset,
        batch_size=5,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        collate_fn=collate_crops,
    )
    saver = pl.callbacks.ModelCheckpoint(folder, save_top_k=-1, **every)
    student = Student()
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[AdvanceCrops(dataset), saver, *callbacks],
        **options,
    )
    trainer.fit(student, loader, ckpt_path=resume_from)
    return student


STEPS, EPOCHS = {"every_n_train_steps": 1}, {"every_n_epochs": 1}


@pytest.mark.parametrize(
    ("step", "every"), [(2, STEPS), (3, STEPS), (3, EPOCHS), (4, STEPS), (6, STEPS), (6, EPOCHS)]
)
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_resumed_run_goes_on_with_the_next_crops(
    image_folder, label_store, tmp_path, step, every, num_workers
):
    """Three passes of three steps. Lightning begins a broken pass with its first batches again."""
    whole = fit(image_folder, label_store, tmp_path / "whole", every, max_epochs=3)
    (saved,) = (tmp_path / "whole").glob(f"*step={step}.ckpt")
    rest = fit(
        image_folder,
        label_store,
        tmp_path / "rest",
        every,
        resume_from=saved,
        num_workers=num_workers,
        max_epochs=3,
    )
    begin, left = step - step % 3, 3 - step % 3
    assert rest.seen == whole.seen[begin : begin + left] + whole.seen[begin + 3 :]


class LetWorkersReadAhead(pl.Callback):
    """They have started here, and the first epoch has not."""

    def on_train_start(self, trainer, pl_module):
        time.sleep(1)


def test_a_run_begins_with_its_first_crops_whatever_the_data_set_was_used_for(
    image_folder, label_store, tmp_path
):
    options = {"every": EPOCHS, "num_workers": 1, "max_epochs": 1}
    options["callbacks"] = [LetWorkersReadAhead()]
    new = fit(image_folder, label_store, tmp_path / "new", **options)
    used = fit(image_folder, label_store, tmp_path / "used", first_epoch=2, **options)
    assert used.seen == new.seen


def test_half_precision_trains(image_folder, label_store, tmp_path):
    student = fit(image_folder, label_store, tmp_path, EPOCHS, max_epochs=1, precision="bf16-mixed")
    assert torch.isfinite(student.trainer.callback_metrics["loss"])
