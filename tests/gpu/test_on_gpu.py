"""What only a GPU can show; `make test-gpu` runs it where there is one."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from fkd.analysis.step_time import measure_time
from fkd.analysis.time_config import TimeConfig
from fkd.data.batches import Batch
from fkd.data.mixing import Mix, mix_crops
from fkd.data.sources import ImagesConfig, open_source
from fkd.engine.logging import Progress, read_metrics
from fkd.evaluation.accuracy import LabeledImages, measure_accuracy
from fkd.labeling.config import LabelConfig
from fkd.labeling.run import label
from fkd.labels.losses import SoftTargetLoss
from fkd.labels.targets import SoftTargets
from fkd.methods import METHODS
from fkd.models.preprocessing import Preprocessing
from fkd.models.teacher import TeacherConfig
from fkd.store import LabelStore
from fkd.training.config import StudentConfig, TrainConfig
from fkd.training.run import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
LOOKS = Preprocessing(
    input_size=32, interpolation="bilinear", mean=(0.5,) * 3, std=(0.2,) * 3, crop_pct=1.0
)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("teacher") / "x.safetensors"
    state = timm.create_model("test_efficientnet", num_classes=7).state_dict()
    save_file({n: v * (300 if n.startswith("classifier.") else 1) for n, v in state.items()}, file)
    return TeacherConfig("test_efficientnet", checkpoint=str(file), input_size=32)


@pytest.fixture
def labels(tmp_path, image_folder, teacher):
    def make(name, **options):
        settings = {"device": "cuda", "num_crops": 6, "batch_size": 8, "images_per_shard": 4}
        return label(
            LabelConfig(
                images=ImagesConfig(root=str(image_folder)),
                teacher=teacher,
                out=str(tmp_path / name),
                accuracy_images=0,
                **(settings | options),
            )
        ).store

    return make


@pytest.fixture
def run_config(tmp_path, image_folder, label_store):
    def make(name="run", **options):
        settings = {
            "out": str(tmp_path / name),
            "images": ImagesConfig(root=str(image_folder)),
            "val": ImagesConfig(root=str(image_folder)),
            "store": str(label_store.path),
            "student": StudentConfig(name="test_resnet", input_size=32),
            "crops_per_image": 2,
            "epochs": 4,
            "batch_size": 8,
            "num_workers": 2,
            "log_every": 1,
            "device": "cuda",
        }
        return TrainConfig(**(settings | options))

    return make


class TestLabeling:
    def test_the_same_bytes_twice(self, labels):
        assert labels("a").root_hash == labels("b").root_hash

    def test_close_to_the_cpu(self, labels):
        rows = range(15)
        on_gpu, on_cpu = labels("a"), labels("b", device="cpu")
        found, expected = (store.read(rows).label for store in (on_gpu, on_cpu))
        assert (found.ids[..., 0] == expected.ids[..., 0]).mean() > 0.98
        np.testing.assert_allclose(found.values[..., 0], expected.values[..., 0], atol=300)  # u16

    @pytest.mark.parametrize("autocast", ["bf16", "fp16"])
    def test_fast_numerics(self, labels, autocast):
        store = labels("a", numerics="fast", autocast=autocast)
        assert store.config["numerics"]["autocast"] == autocast
        assert LabelStore.open(store.path).root_hash == store.root_hash


class TestTraining:
    @pytest.mark.parametrize("amp", ["no", "bf16", "fp16"])
    @pytest.mark.parametrize("workers", ["threads", "processes"])
    def test_precisions_and_workers(self, run_config, amp, workers):
        result = train(run_config(amp=amp, workers=workers))
        assert np.isfinite(result.loss)
        assert result.num_steps == 8

    @pytest.mark.parametrize("method", ["kd", "mealv2", "vanilla", "funmatch"])
    def test_methods_without_a_store(self, run_config, teacher, method):
        kind = METHODS[method]
        config = run_config(
            method=method,
            store=None,
            val=None,
            teacher=teacher if kind.needs_teacher else None,
            mixing=replace(run_config().mixing, mixup_alpha=1.0),
        )
        assert np.isfinite(train(config).loss)

    @pytest.mark.parametrize("amp", ["no", "fp16"])
    def test_goes_on_after_an_interruption(self, run_config, amp):
        class Stop(Progress):
            def advance(self, step, metrics):
                if step == 6:
                    raise KeyboardInterrupt

        config = run_config(amp=amp, ema_decay=0.9)
        with pytest.raises(KeyboardInterrupt):
            train(config, Stop())
        assert train(config).num_steps == 8
        steps = [line["step"] for line in read_metrics(Path(config.out) / "metrics.jsonl")]
        assert sorted(set(steps)) == list(range(1, 9))

    def test_pinned_batches_arrive_whole(self):
        crops = torch.randint(0, 256, (64, 3, 64, 64), dtype=torch.uint8)
        targets = SoftTargets.full(torch.softmax(torch.randn(64, 9), 1))
        batch = Batch((crops,), torch.arange(64), targets)
        moved = batch.pin_memory().to("cuda")
        torch.cuda.synchronize()
        assert torch.equal(moved.crops[0].cpu(), crops)
        torch.testing.assert_close(moved.targets.dense().cpu(), targets.dense())

    def test_nccl(self, run_config, tmp_path, image_folder, label_store):
        """As many processes as the machine has GPUs, at most two."""
        ranks = min(2, torch.cuda.device_count())
        command = [
            *(sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={ranks}"),
            *("--standalone", "-m", "fkd", "train", "--out", str(tmp_path / "ddp")),
            *("--images.root", str(image_folder), "--store", str(label_store.path)),
            *("--student.name", "test_resnet", "--student.input_size", "32", "--epochs", "4"),
            *("--crops_per_image", "2", "--batch_size", "8", "--num_workers", "2"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert load_file(tmp_path / "ddp" / "model.safetensors")


class TestNumbers:
    """The same results as on the CPU."""

    @pytest.mark.parametrize("box", [None, (4, 4, 12, 12)])
    def test_mixing(self, box):
        crops = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
        mix = Mix(torch.tensor([1, 0, 3, 2, 5, 4]), 0.5, box, (32, 32))
        assert torch.equal(mix_crops(mix, crops.cuda()).cpu(), mix_crops(mix, crops))

    def test_normalization(self):
        crops = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
        torch.testing.assert_close(LOOKS.normalize(crops.cuda()).cpu(), LOOKS.normalize(crops))

    def test_loss_and_gradient(self):
        targets = SoftTargets(
            torch.randint(0, 9, (16, 3)), torch.rand(16, 3) / 4, torch.rand(16) / 50, 9
        )
        logits = torch.randn(16, 9, requires_grad=True)
        there = logits.detach().cuda().requires_grad_()
        loss, other = SoftTargetLoss()(logits, targets), SoftTargetLoss()(there, targets.to("cuda"))
        loss.backward()
        other.backward()
        torch.testing.assert_close(other.cpu(), loss)
        torch.testing.assert_close(there.grad.cpu(), logits.grad)

    def test_evaluation(self, image_folder):
        torch.manual_seed(0)
        model = timm.create_model("test_resnet", num_classes=3)
        source = open_source(ImagesConfig(root=str(image_folder)))
        images = LabeledImages.match(source, ["ant", "bee", "cat"])
        on_cpu, on_gpu = (
            measure_accuracy(model.to(device), images, LOOKS, device=torch.device(device))
            for device in ("cpu", "cuda")
        )
        assert on_cpu == on_gpu


def test_the_stages_of_a_step_are_all_of_it(image_folder, teacher):
    """Each one waits for the GPU; the step of plain training does not, and is no longer."""
    report = measure_time(
        TimeConfig(
            images=ImagesConfig(root=str(image_folder)),
            student=StudentConfig(name="test_resnet", input_size=32),
            teacher=teacher,
            batch_size=4,
            crops_per_image=(1, 2),
            num_workers=2,
            repeats=3,
            device="cuda",
        )
    )
    for row in report.rows:
        assert row.explained > 0.5
        assert {"forward", "backward", "optimizer", "transfer"} <= {*row.parts}
        assert ("teacher" in row.parts) == (row.method == "kd")
