"""S2-BNN online: its losses against their definitions, the queue, and stored embeddings."""

import math
from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from fkd.data.batches import Batch, CropCutter
from fkd.data.crop_sources import StoredCropSource
from fkd.data.sources import ImagesConfig
from fkd.errors import ConfigError
from fkd.labeling.config import LabelConfig
from fkd.labeling.run import label
from fkd.labels.embedding_losses import contrastive_loss
from fkd.methods import ContrastConfig, SslConfig, find_method
from fkd.methods.s2bnn import swap_pairs
from fkd.models.students import attach_head
from fkd.models.teacher import TeacherEnsemble, load_teachers
from fkd.store import LabelStore

DIM = 12


@pytest.fixture(scope="module")
def embedder(teacher_config):
    return load_teachers([replace(teacher_config, output="features")])


@pytest.fixture
def batch() -> Batch:
    draw = torch.Generator().manual_seed(0)
    sizes = (32, 48)
    crops = tuple(
        torch.randint(0, 256, (8, 3, s, s), dtype=torch.uint8, generator=draw) for s in sizes
    )
    return Batch(crops, torch.full((8,), -1), None, crops_per_image=2)


def build(name, inputs, *, width=DIM, queue_length=20, **options):
    contrast = ContrastConfig(queue_length=queue_length)
    return find_method(name)(
        inputs(num_classes=width, options=SslConfig(**options), contrast=contrast)
    )


def student_of(width=DIM) -> nn.Module:
    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=0, img_size=32)
    return attach_head(network, "mlp", width, input_size=32, name="test_vit")


def test_distillation_is_the_loss_over_dimensions_on_the_same_crops(embedder, batch, method_inputs):
    said = embedder.logits([batch.crops[1]])
    method = build("s2bnn", lambda **v: method_inputs(teacher=embedder, **v), temperature=0.3)
    student = torch.randn(8, said.shape[1], generator=torch.Generator().manual_seed(0))
    rows, targets = (F.normalize(x.double(), dim=1) / 0.3 for x in (student, said))
    total = 0.0
    for row, target in zip(rows.tolist(), targets.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(x) for x in row))
        weights = [math.exp(x) for x in target]
        terms = (w * (log_sum - x) for w, x in zip(weights, row, strict=True))
        total += sum(terms) / sum(weights)
    loss = method.loss(student, method.targets(batch))
    torch.testing.assert_close(float(loss), total / 8, rtol=1e-5, atol=0)


def test_moco_compares_each_crop_with_the_key_of_the_other_one(batch, method_inputs):
    method, student = build("moco", method_inputs, queue_length=20), student_of()
    method.prepare_student(student)
    outputs = student(batch.crops[0] / 255.0)
    targets = method.targets(batch)
    # At first the copy is the student; no batch norm depends on the rest of the batch.
    torch.testing.assert_close(targets, outputs[[1, 0, 3, 2, 5, 4, 7, 6]].detach())
    queue = method.auxiliary_model.queue
    expected = contrastive_loss(outputs, targets, queue).mean()
    torch.testing.assert_close(method.loss(outputs, targets), expected)
    method.loss(outputs, targets).backward()
    assert all(p.grad is None for p in method.auxiliary_model.parameters())


def test_both_is_the_sum(embedder, batch, method_inputs):
    width = len(embedder.class_names)

    def inputs(**values):
        return method_inputs(teacher=embedder, **values)

    student = student_of(width)
    losses = {}
    for name in ("s2bnn", "s2bnn-both", "moco"):
        method = build(name, inputs, width=width, queue_length=20)
        method.prepare_student(student)
        losses[name] = method.loss(student(batch.crops[0] / 255.0), method.targets(batch))
    total = losses["s2bnn"] + losses["moco"]
    torch.testing.assert_close(losses["s2bnn-both"], total)


def test_pairs_swap():
    rows = torch.arange(6)[:, None]
    assert swap_pairs(rows).flatten().tolist() == [1, 0, 3, 2, 5, 4]


@pytest.mark.parametrize("name", ["s2bnn", "s2bnn-both"])
def test_teachers_of_classes_or_several_are_refused(name, teacher, embedder, method_inputs):
    with pytest.raises(ConfigError, match=r"gives class scores.*--teacher\.output features"):
        build(name, lambda **v: method_inputs(teacher=teacher, **v))
    two = TeacherEnsemble([*embedder.teachers, *embedder.teachers])
    with pytest.raises(ConfigError, match="embeddings of 2 teachers have no common meaning"):
        build(name, lambda **v: method_inputs(teacher=two, **v))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 0.0),
        ("queue_length", 0),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("dim", 0),
    ],
)
def test_impossible_settings_are_refused(field, value):
    with pytest.raises(ConfigError, match=rf"contrast\.{field}"):
        ContrastConfig(**{field: value})


def test_a_bank_is_refused_without_a_store(embedder, method_inputs):
    with pytest.raises(ConfigError, match="only method fkd-ssl draws a bank"):
        build("s2bnn", lambda **v: method_inputs(teacher=embedder, **v), loss="bank")


def test_stored_embeddings_give_the_loss_of_the_live_teacher(
    teacher_config, embedder, image_folder, image_source, tmp_path, method_inputs
):
    """FKD-SSL is S2-BNN with the teacher's answers kept, here in half precision."""
    label(
        LabelConfig(
            images=ImagesConfig(root=str(image_folder)),
            out=str(tmp_path / "store"),
            teacher=replace(teacher_config, output="features"),
            num_crops=4,
            value_dtype="f16",
            device="cpu",
        )
    )
    store = LabelStore.open(tmp_path / "store")
    online = build("s2bnn", lambda **v: method_inputs(teacher=embedder, **v))
    offline = build("fkd-ssl", method_inputs)
    crops = StoredCropSource(image_source, store, crops_per_image=2)
    batch = CropCutter(image_source, crops, online.formats).cut([3, 14, 0, 8], 0, 2)
    draw = torch.Generator().manual_seed(0)
    losses, gradients = [], []
    student = torch.randn(8, store.num_classes, generator=draw, requires_grad=True)
    for method in (online, offline):
        loss = method.loss(student, method.targets(batch))
        losses.append(loss)
        gradients.append(torch.autograd.grad(loss, student)[0])
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=0)
    assert (gradients[1] - gradients[0]).norm() < 1e-3 * gradients[0].norm()
