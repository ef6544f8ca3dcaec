"""ReLabel: labels of maps, axes; whole runs that resume exactly."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from fkd.cli import main
from fkd.crops.sampling import CropConfig
from fkd.data.batches import CropCutter
from fkd.data.maps import MapCropSource
from fkd.data.mixing import MixingConfig
from fkd.data.sources import ImagesConfig
from fkd.engine.logging import Progress
from fkd.engine.schedule import ScheduleConfig
from fkd.errors import ConfigError, CropMismatch, MissingLabel, StoreMismatch
from fkd.methods import ReLabelConfig
from fkd.methods.relabel import ReLabel
from fkd.training.config import StudentConfig, TrainConfig
from fkd.training.run import train


def test_the_loss_is_cross_entropy_with_the_pooled_label(method_inputs, image_source, map_store):
    method = ReLabel(method_inputs(num_classes=4, options=ReLabelConfig()))
    crops = MapCropSource(image_source, map_store, CropConfig())
    batch = CropCutter(image_source, crops, method.formats).cut([1, 8], 0, 3)
    targets = method.targets(batch)
    assert not method.needs_classes
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    expected = F.cross_entropy(logits, batch.targets.dense())
    torch.testing.assert_close(method.loss(logits, targets), expected)
    assert targets.truth is None


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


class StopAt(Progress):
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


def test_swapped_axes_give_other_labels(image_source, map_store):
    """The authors' reading of crop boxes; images here are not square."""
    labels = [
        MapCropSource(image_source, map_store, CropConfig(), swap_xy=swap_xy)
        .select(np.array([3]), start=0, crops_per_image=4)
        .targets.dense()
        for swap_xy in (False, True)
    ]
    assert not torch.allclose(*labels)


def test_settings_that_cannot_work_are_refused(config, label_store, map_store):
    for options, message in [
        ({"store": None}, "method relabel needs label maps.*fkd label-maps"),
        ({"crop_source": "stored"}, "method relabel needs label maps.*crop_source fresh"),
        (
            {"method": "vanilla", "store": None, "relabel": ReLabelConfig(swap_xy=True)},
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
    with pytest.raises(
        MissingLabel, match=r"is not finished.*same `fkd label-maps` or `fkd pull` command"
    ):
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
        "relabel.swap_xy": "true",
        "epochs": 1,
        "crops_per_image": 1,
        "batch_size": 8,
        "device": "cpu",
        "out": config.out,
    }
    main(["train", *(f"--{name}={value}" for name, value in options.items())])
    assert "by relabel: fresh random crops against label maps" in capsys.readouterr().out
