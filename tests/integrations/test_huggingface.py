"""The Trainer of transformers: its loss and gradients are those of a loop of one's own."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

from fkd import MultiCropDataset, SoftTargetLoss, collate_crops
from fkd.integrations.huggingface import SoftTargetMixin, SoftTargetTrainer, collate_for_trainer


class Photos(Dataset):
    """Images with class ids, as for evaluation."""

    def __len__(self):
        return 6

    def __getitem__(self, i):
        return {"pixel_values": torch.full((3, 32, 32), i / 6), "labels": i % 4}


@pytest.fixture
def build(tmp_path):
    """Makes a model with fixed weights and the arguments of a Trainer."""

    def make(**options):
        torch.manual_seed(0)
        config = ResNetConfig(
            num_labels=4, embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic"
        )
        defaults = {
            "output_dir": str(tmp_path / "run"),
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "save_strategy": "no",
            "optim": "sgd",
            "learning_rate": 0.1,
            "lr_scheduler_type": "constant",
            "max_grad_norm": 0.0,
            "num_train_epochs": 1,
            "per_device_train_batch_size": 5,
        }
        return ResNetForImageClassification(config), TrainingArguments(**(defaults | options))

    return make


def weights_of(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_pass_is_that_of_a_loop_of_ones_own(build, dataset):
    model, arguments = build(train_sampling_strategy="sequential")
    SoftTargetTrainer(model=model, args=arguments, train_dataset=dataset).train()
    expected, _ = build()
    expected.train()
    dataset.set_epoch(0)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for crops, targets in DataLoader(dataset, batch_size=5, collate_fn=collate_crops):
        loss = F.cross_entropy(expected(crops).logits, targets.dense())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(weights_of(model), weights_of(expected), atol=1e-6, rtol=1e-5)


def test_batches_of_an_accumulated_step_count_equally(build, dataset):
    """Three batches of five images are one step of fifteen; without batch norm it is the same."""

    def step(**options):
        model, arguments = build(train_sampling_strategy="sequential", **options)
        before = weights_of(model)
        model.eval()
        model.train = lambda mode=True: model
        SoftTargetTrainer(model=model, args=arguments, train_dataset=dataset).train()
        return weights_of(model) - before

    whole = step(per_device_train_batch_size=15)
    parts = step(per_device_train_batch_size=5, gradient_accumulation_steps=3)
    assert whole.abs().max() > 1e-4
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-4)


def test_evaluation_takes_class_ids_and_computes_metrics(build, dataset):
    model, arguments = build()
    trainer = SoftTargetTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        eval_dataset=Photos(),
        compute_metrics=lambda found: {
            "top1": float((found.predictions.argmax(1) == found.label_ids).mean())
        },
    )
    metrics = trainer.evaluate()
    with torch.no_grad():
        batch = collate_for_trainer([Photos()[i] for i in range(6)])
        logits = model(batch["pixel_values"]).logits
    assert metrics["eval_loss"] == pytest.approx(F.cross_entropy(logits, batch["labels"]).item())
    hits = (logits.argmax(1) == batch["labels"]).float().mean()
    assert metrics["eval_top1"] == pytest.approx(hits.item())


def test_a_resumed_run_sees_the_crops_that_are_left(build, image_folder, label_store, tmp_path):
    def make():
        return MultiCropDataset(image_folder, label_store, crops_per_image=2, size=32)

    whole, arguments = build(num_train_epochs=3, save_strategy="epoch")
    SoftTargetTrainer(model=whole, args=arguments, train_dataset=make()).train()
    model, arguments = build(num_train_epochs=3)
    again = SoftTargetTrainer(model=model, args=arguments, train_dataset=make())
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    torch.testing.assert_close(weights_of(model), weights_of(whole), atol=1e-6, rtol=1e-5)


def test_a_trainer_of_ones_own_takes_the_mixin_and_another_loss(build, dataset):
    class Mine(SoftTargetMixin, Trainer):
        """Somebody's."""

    model, arguments = build()
    loss = SoftTargetLoss(temperature=2.0)
    mine = Mine(model=model, args=arguments, train_dataset=dataset, soft_target_loss=loss)
    batch = collate_for_trainer([dataset[0], dataset[1]])
    logits = model(batch["pixel_values"]).logits
    expected = F.cross_entropy(logits / 2, batch["labels"].dense())
    assert mine.compute_loss(model, batch).item() == pytest.approx(expected.item(), rel=1e-5)
