"""ReLabel: labels of maps, the true class in doubt; whole runs that go on exactly."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from fkd.cli import main
from fkd.crops.replay import InputSpec
from fkd.crops.sampling import CropConfig
from fkd.data.batches import CropCutter
from fkd.data.maps import MapCropSource
from fkd.data.mixing import MixingConfig
from fkd.data.sources import ImagesConfig
from fkd.engine.schedule import ScheduleConfig
from fkd.errors import ConfigError, CropMismatch, MissingLabel, StoreMismatch
from fkd.labels.pooling import PoolingConfig
from fkd.methods import MethodInputs
from fkd.methods.relabel import ReLabel
from fkd.training import StudentConfig, TrainConfig, train

STUDENT = InputSpec(24, "bilinear")


def batch_and_targets(source, store, pooling, **options):
    method = ReLabel(MethodInputs(num_classes=4, student=STUDENT, relabel=pooling, **options))
    views = MapCropSource(source, store, CropConfig(), pooling)
    batch = CropCutter(source, views, method.formats, class_ids=np.arange(3)).cut([1, 8], 0, 3)
    return method, batch, method.targets(batch)


def test_the_loss_is_cross_entropy_with_the_pooled_label(image_source, map_store):
    method, batch, targets = batch_and_targets(image_source, map_store, PoolingConfig())
    assert not method.needs_classes
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    expected = F.cross_entropy(logits, batch.targets.dense())
    torch.testing.assert_close(method.loss(logits, targets), expected)
    assert targets.truth is None


def test_the_true_class_stands_in_for_doubtful_labels(image_source, map_store):
    sure = batch_and_targets(image_source, map_store, PoolingConfig())[1].targets.dense()
    threshold = float(sure.max(1).values.sort().values[2:4].mean())
    pooling = PoolingConfig(fallback=threshold)
    method, batch, targets = batch_and_targets(image_source, map_store, pooling)
    assert method.needs_classes
    doubtful = sure.max(1).values < threshold
    assert doubtful.sum() == 3
    truth = F.one_hot(batch.labels, 4).float()
    expected = torch.where(doubtful[:, None], truth, sure)
    torch.testing.assert_close(targets.soft.dense(), expected)


@pytest.fixture
def config(tmp_path, image_folder, map_store) -> TrainConfig:
    return TrainConfig(
        out=str(tmp_path / "run"),
        method="relabel",
        images=ImagesConfig(root=str(image_folder)),
        store=str(map_store.path),
        student=StudentConfig(name="test_vit", input_size=32, drop_rate=0.2),
        crops_per_image=2,
        epochs=4,
        batch_size=8,
        schedule=ScheduleConfig(single_crop_ending=False),
        mixing=MixingConfig(mixup_alpha=0.8, cutmix_alpha=1.0, prob=0.5),
        num_workers=0,
        log_every=1,
        device="cpu",
    )


class Stop(Exception):
    """Ends a run like a kill."""


class StopAt:
    def __init__(self, step):
        self.step = step

    def begin(self, step, num_steps, description):
        assert step < self.step

    def advance(self, step, metrics):
        if step == self.step:
            raise Stop


def test_a_run_stopped_twice_ends_in_the_same_weights(config):
    reference = replace(config, out=config.out + "-reference")
    result = train(reference)
    assert result.num_steps == 8
    stopped = replace(config, checkpoint_seconds=0)
    for step in (3, 6):
        with pytest.raises(Stop):
            train(stopped, StopAt(step))
    train(replace(stopped, num_workers=2))
    weights = [load_file(Path(c.out) / "model.safetensors") for c in (config, reference)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.parametrize("variant", ["localized_single", "global_multi", "global_single"])
def test_every_variant_trains(config, variant):
    pooling = PoolingConfig(
        variant=variant, fill="smallest_kept", fallback=0.3, fallback_smoothing=0.1
    )
    result = train(replace(config, relabel=pooling, epochs=2))
    assert np.isfinite(result.loss)


def test_settings_that_cannot_work_are_refused(config, label_store, map_store):
    for options, message in [
        ({"store": None}, "method relabel needs label maps.*fkd label-maps"),
        ({"views": "stored"}, "method relabel needs label maps.*views fresh"),
        (
            {"method": "vanilla", "store": None, "relabel": PoolingConfig(fill="smallest_kept")},
            "relabel: method vanilla does not use it; .*relabel",
        ),
    ]:
        with pytest.raises(ConfigError, match=message):
            replace(config, **options)
    with pytest.raises(ConfigError, match="holds crops and no label maps; use method fkd"):
        train(replace(config, store=str(label_store.path)))
    with pytest.raises(ConfigError, match="holds label maps and no crops; use method relabel"):
        train(replace(config, method="fkd"))
    assert not Path(config.out).exists()


def test_images_without_maps_are_refused(config, tmp_path, make_images, image_source, make_maps):
    root = make_images(tmp_path / "more", per_class=6)
    with pytest.raises(StoreMismatch, match="3 there but not labeled"):
        train(replace(config, images=ImagesConfig(root=str(root))))
    root = make_images(tmp_path / "changed", seed=1)
    with pytest.raises(CropMismatch, match="is not the file that was labeled"):
        train(replace(config, images=ImagesConfig(root=str(root))))
    store = tmp_path / "unfinished"
    make_maps(store, image_source)
    (store / "manifest.json").unlink()
    with pytest.raises(MissingLabel, match=r"is not finished.*same `fkd label-maps` command"):
        train(replace(config, store=str(store)))


def test_unreadable_images_are_left_out(config, image_source, make_maps, tmp_path):
    store = make_maps(tmp_path / "maps", image_source, unreadable=(2, 7))
    run = replace(config, store=str(store.path), crops_per_image=1, epochs=1, batch_size=13)
    assert train(run).num_steps == 1


def test_the_command_takes_the_options(config, capsys):
    options = {
        "method": "relabel",
        "images.root": config.images.root,
        "store": config.store,
        "student.name": "test_vit",
        "student.input_size": 32,
        "relabel.variant": "global_multi",
        "epochs": 1,
        "crops_per_image": 1,
        "batch_size": 8,
        "device": "cpu",
        "out": config.out,
    }
    main(["train", *(f"--{name}={value}" for name, value in options.items())])
    assert "by relabel: fresh random crops against label maps" in capsys.readouterr().out
