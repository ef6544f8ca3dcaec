"""What runs on a GPU, run on tensors of a GPU that is not there: every device and dtype is checked.

A fake tensor has a device, a dtype and a shape, and no numbers. An operation on tensors of two
devices raises as it would on a GPU.
"""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from torch import nn

from fkd.crops.replay import InputSpec
from fkd.data.batches import Batch
from fkd.data.mixing import Mix, mix_crops
from fkd.engine.recorder import count_crops
from fkd.labels.codec_names import parse_codec
from fkd.labels.embeddings import Embeddings
from fkd.labels.targets import SoftTargets
from fkd.methods import (
    METHODS,
    ContrastConfig,
    DeitConfig,
    MealV2Config,
    MethodInputs,
    ReLabelConfig,
    SslConfig,
)
from fkd.models.dense import DenseTeacher
from fkd.models.ensemble import TeacherEnsemble
from fkd.models.preprocessing import Preprocessing
from fkd.models.single_teacher import Teacher
from fkd.models.trial import try_network

CLASSES, SIDE, COUNT = 7, 32, 6
LOOKS = Preprocessing(
    input_size=SIDE, interpolation="bilinear", mean=(0.5,) * 3, std=(0.2,) * 3, crop_pct=1.0
)
OPTIONS = {
    "deit": DeitConfig(),
    "mealv2": MealV2Config(),
    "relabel": ReLabelConfig(),
    "ssl": SslConfig(),
}


def network(name="test_resnet", seed=0):
    torch.manual_seed(seed)
    return timm.create_model(name, num_classes=CLASSES)


def make_teacher(seed=0, name="test_resnet", **options):
    names = [str(i) for i in range(CLASSES)]
    model = network(name, seed)
    return Teacher(model, name=name, preprocessing=LOOKS, class_names=names, **options)


@pytest.fixture(scope="module")
def two_teachers():
    return TeacherEnsemble([make_teacher(0), make_teacher(1, "test_efficientnet")])


@pytest.fixture(scope="module")
def one_teacher():
    return TeacherEnsemble([make_teacher()])


@pytest.fixture(scope="module")
def embedding_teacher():
    return TeacherEnsemble([make_teacher(output="features")])


@pytest.fixture(scope="module")
def dense():
    return DenseTeacher(make_teacher())


def is_on_gpu(tensor):
    return tensor.device.type == "cuda"


def test_mixing_devices_is_noticed(fake, tools):
    """The instrument itself: without this, all that follows shows nothing."""
    on_cuda, _, crops = tools
    model = on_cuda(network(), fake)
    with fake, pytest.raises(RuntimeError):
        model(crops(2, SIDE, "cpu").float())


class TestLabeling:
    @pytest.mark.parametrize("autocast", [None, "bf16", "fp16"])
    def test_teachers(self, fake, tools, two_teachers, autocast):
        _, teachers_on_cuda, crops = tools
        teachers = teachers_on_cuda(two_teachers, fake)
        with fake:
            for device in ("cpu", "cuda"):  # crops come from the CPU in labeling
                views = [crops(COUNT, SIDE, device)]
                found = teachers.probabilities(views, autocast=autocast)
                each = teachers.each(views, autocast=autocast)
                assert (found.dtype, found.shape) == (torch.float32, (COUNT, CLASSES))
                assert each.shape == (COUNT, 2, CLASSES)
                assert is_on_gpu(found)
                assert is_on_gpu(each)

    def test_some_classes_only(self, fake, tools, one_teacher):
        _, teachers_on_cuda, crops = tools
        part = TeacherEnsemble(one_teacher.teachers, ["5", "2"])
        teachers = teachers_on_cuda(part, fake)
        with fake:
            assert teachers.logits([crops(COUNT, SIDE)]).shape == (COUNT, 2)

    @pytest.mark.parametrize(
        "codec", ["full", "ms:3", "mr:3", "hard", "smoothing", "logits", "sigmoid", "sigmoid:3"]
    )
    def test_codecs_take_outputs_of_a_gpu(self, fake, monkeypatch, codec):
        """Up to the copy to the CPU, where numbers are needed."""
        arrays = []
        monkeypatch.setattr(torch.Tensor, "numpy", lambda t: arrays.append(t) or np.zeros(t.shape))
        with fake:
            parse_codec(codec).encode(torch.full((COUNT, CLASSES), 1 / CLASSES).to("cuda"))
        assert arrays
        assert all(array.device.type == "cpu" for array in arrays)

    def test_label_maps(self, fake, tools, dense):
        on_cuda, _, crops = tools
        moved = on_cuda(dense.teacher.model, fake)
        dense.teacher.model, kept = moved, dense.teacher.model
        own = dense._network._model
        dense._network._model = moved
        try:
            with fake:
                maps = dense.logit_maps(crops(2, SIDE))
        finally:
            dense.teacher.model, dense._network._model = kept, own
        assert is_on_gpu(maps)
        assert maps.shape == (2, dense.grid[0] * dense.grid[1], CLASSES)

    def test_the_trial(self, fake, tools):
        on_cuda, _, _ = tools
        model = on_cuda(network(), fake)
        assert next(model.parameters()).device.type == "cuda"
        with fake:
            looks = replace(LOOKS, input_size=16)
            assert is_on_gpu(looks.normalize(torch.zeros(1, 3, 16, 16, dtype=torch.uint8).cuda()))
        assert try_network(network(), looks, "x") is None


def mix(kind):
    partner = torch.tensor([1, 0, 3, 2, 5, 4])
    box = (4, 4, 12, 12) if kind == "cutmix" else None
    return Mix(partner=partner, share=0.6, box=box, size=(SIDE, SIDE))


def stored_embeddings():
    return Embeddings(torch.linspace(-1, 1, COUNT * CLASSES).reshape(COUNT, CLASSES))


def stored_targets(kept=3):
    ids = torch.arange(COUNT * kept).reshape(COUNT, kept) % CLASSES
    weight = torch.full((COUNT, kept), 0.2)
    return SoftTargets(ids, weight, torch.full((COUNT,), 0.1), CLASSES)


class TestTraining:
    """The forward half of a step of every method: crops to the GPU, mixed, targets, loss."""

    @pytest.mark.parametrize("mixing", [None, "mixup", "cutmix"])
    @pytest.mark.parametrize("method", METHODS)
    def test_a_step(self, fake, tools, two_teachers, embedding_teacher, method, mixing):
        on_cuda, teachers_on_cuda, crops = tools
        kind = METHODS[method]
        if kind.needs_pairs and mixing is not None:
            pytest.skip("crops that are compared in pairs are never mixed")
        some_teachers = embedding_teacher if kind.learns_embeddings else two_teachers
        student = InputSpec(SIDE, "bilinear", augmented=False)
        teachers = teachers_on_cuda(some_teachers, fake) if kind.needs_teacher else None
        built = kind(
            MethodInputs(
                num_classes=CLASSES,
                student=student,
                normalize=LOOKS.normalize,
                teacher=teachers,
                temperature=2.0 if "temperature" in kind.uses else 1.0,
                soft_weight=0.5 if "soft_weight" in kind.uses else 1.0,
                label_smoothing=0.1 if "label_smoothing" in kind.uses else 0.0,
                options=OPTIONS.get(kind.options),
                contrast=ContrastConfig(queue_length=8),
            )
        )
        model = network("test_vit" if method == "deit" else "test_resnet")
        built.prepare_student(model)
        model = on_cuda(model, fake)
        if built.auxiliary_model is not None:
            moved = on_cuda(built.auxiliary_model, fake)
            for part in (built, getattr(built, "_contrast", built)):  # both methods in one share it
                part.auxiliary_model = moved
        with fake:
            self.step(built, model, crops, mixing)

    def step(self, method, model, crops, mixing):
        views = tuple(crops(COUNT, spec.size, "cpu") for spec in method.formats)
        targets = stored_embeddings() if method.learns_embeddings else stored_targets()
        targets = None if method.needs_teacher else targets
        batch = Batch(views, torch.zeros(COUNT, dtype=torch.int64), targets).to("cuda")
        if mixing is not None:
            batch = batch.mixed(mix(mixing))
        goal = method.targets(batch)
        side = batch.crops[0].shape[-1]
        images = replace(LOOKS, input_size=side).normalize(batch.crops[0])
        with torch.autocast("cuda", dtype=torch.float16):
            outputs = model.train()(images)
        loss = method.loss(outputs, goal)
        auxiliary = method.auxiliary_loss(outputs, goal)
        total = loss if auxiliary is None else loss + auxiliary
        assert is_on_gpu(total)  # its backward pass needs a driver
        assert total.shape == ()
        counted = count_crops(loss, outputs, batch)
        assert is_on_gpu(counted)

    @pytest.mark.parametrize("kind", ["mixup", "cutmix"])
    def test_mixed_crops_stay_where_they_are(self, fake, tools, kind):
        with fake:
            mixed = mix_crops(mix(kind), tools[2](COUNT, SIDE))
            assert is_on_gpu(mixed)
            assert mixed.dtype == torch.uint8


class TestEvaluation:
    def test_forward_and_hits(self, fake, tools):
        from fkd.evaluation.accuracy import _count_hits

        model = tools[0](network(), fake).eval()
        with fake, torch.inference_mode():
            logits = model(LOOKS.normalize(tools[2](COUNT, SIDE, "cpu").to("cuda")))
            hits = _count_hits(logits.float(), torch.zeros(COUNT, dtype=torch.int64).to("cuda"))
        assert is_on_gpu(hits)


class TestHalfPrecision:
    """On the CPU, with real numbers: bf16 and fp16, the latter with scaled gradients."""

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("method", ["vanilla", "fkd", "kd"])
    def test_a_step_learns(self, dtype, method, one_teacher):
        kind = METHODS[method]
        built = kind(
            MethodInputs(
                num_classes=CLASSES,
                student=InputSpec(SIDE, "bilinear", augmented=False),
                normalize=LOOKS.normalize,
                teacher=one_teacher if kind.needs_teacher else None,
                temperature=1.0,
                soft_weight=1.0,
                label_smoothing=0.0,
                options=None,
            )
        )
        model = network().train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16, init_scale=256.0)
        generator = torch.Generator().manual_seed(0)
        shape = (COUNT, 3, SIDE, SIDE)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        crops = tuple(pixels for _ in built.formats)
        batch = Batch(crops, torch.arange(COUNT) % CLASSES, stored_targets())
        losses = []
        for _ in range(6):
            with torch.autocast("cpu", dtype=dtype):
                outputs = model(LOOKS.normalize(batch.crops[0]))
            loss = built.loss(outputs, built.targets(batch))
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            losses.append(loss.item())
        assert all(np.isfinite(losses))
        assert losses[-1] < losses[0]

    @pytest.mark.parametrize("autocast", ["bf16", "fp16"])
    def test_teachers(self, one_teacher, autocast):
        pixels = torch.randint(0, 256, (COUNT, 3, SIDE, SIDE), dtype=torch.uint8)
        exact = one_teacher.probabilities([pixels])
        half = one_teacher.probabilities([pixels], autocast=autocast)
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, exact, atol=0.02, rtol=0)


def test_fake_weights_leave_the_real_ones_alone(fake, tools):
    model = nn.Linear(2, 2)
    moved = tools[0](model, fake)
    assert model.weight.device.type == "cpu"
    assert moved.weight.device.type == "cuda"
