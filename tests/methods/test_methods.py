"""Methods: views, targets, loss; and that FKD is online KD with the teacher's answers kept."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fkd.crops.replay import InputSpec, replay, sample_crops
from fkd.crops.sampling import CropConfig
from fkd.data.batches import Batch, CropCutter
from fkd.data.crop_sources import StoredCropSource
from fkd.data.mixing import Mix
from fkd.data.sources import ImagesConfig, load
from fkd.errors import ConfigError
from fkd.labeling.config import LabelConfig
from fkd.labeling.run import label
from fkd.labels.codecs import Full
from fkd.labels.targets import SoftTargets
from fkd.methods import METHODS, find_method
from fkd.methods.fkd import FKD
from fkd.methods.kd import KD
from fkd.methods.vanilla import Vanilla
from fkd.store import LabelStore

STUDENT = InputSpec(32, "bilinear")
EPOCHS = 5


@pytest.mark.parametrize("value_dtype", ["f32", "u16"])
def test_fkd_sees_the_crops_and_targets_of_online_kd(
    value_dtype, teacher_config, teacher, image_folder, image_source, tmp_path, method_inputs
):
    """Full labels, one crop at a time, as many crops as epochs: the same training, bit for bit in
    the pictures and to 1e-5 in the labels."""
    label(
        LabelConfig(
            images=ImagesConfig(root=str(image_folder)),
            out=str(tmp_path / "store"),
            teacher=teacher_config,
            num_crops=EPOCHS,
            codec=Full(),
            value_dtype=value_dtype,
            device="cpu",
        )
    )
    store = LabelStore.open(tmp_path / "store")
    views = StoredCropSource(image_source, store, crops_per_image=1)
    fkd, kd = (METHODS[name](method_inputs(teacher=teacher)) for name in ("fkd", "kd"))
    offline = CropCutter(image_source, views, fkd.formats)
    online = CropCutter(image_source, views, kd.formats)
    logits, used = torch.randn(4, 7), []
    for epoch in range(EPOCHS):
        stored, asked = (c.cut([3, 14, 0, 8], epoch, 1) for c in (offline, online))
        assert torch.equal(stored.crops[0], asked.crops[0])
        known, answer = fkd.targets(stored), kd.targets(asked)
        torch.testing.assert_close(known.soft.dense(), answer.soft.dense(), atol=1e-5, rtol=0)
        torch.testing.assert_close(
            fkd.loss(logits, known), kd.loss(logits, answer), atol=1e-4, rtol=0
        )
        used.append(stored.crops[0])
    for image, row in enumerate([3, 14, 0, 8]):  # every stored crop once
        loaded, numbers = load(image_source, row), np.arange(EPOCHS)
        records = sample_crops(CropConfig(), loaded.content_key, loaded.size, numbers)
        drawn = replay(loaded.image, records, STUDENT.size, STUDENT.interpolation)
        ours = {crops[image].numpy().tobytes() for crops in used}
        assert ours == {crop.numpy().tobytes() for crop in drawn}


def batch_of(labels, targets=None) -> Batch:
    crops = torch.randint(0, 256, (len(labels), 3, 32, 32), dtype=torch.uint8)
    return Batch((crops,), torch.tensor(labels), targets)


def test_every_method_says_what_it_is():
    for name, method in METHODS.items():
        assert find_method(name) is method
        assert len(method.summary) < 80
    with pytest.raises(ConfigError, match="method 'meal' is unknown; use one of fkd, vanilla, kd,"):
        find_method("meal")


def test_vanilla_trains_on_the_true_class(method_inputs):
    method = Vanilla(method_inputs(num_classes=3, label_smoothing=0.1))
    targets = method.targets(batch_of([2, 0]))
    logits = torch.randn(2, 3)
    expected = F.cross_entropy(logits, torch.tensor([2, 0]), label_smoothing=0.1)
    torch.testing.assert_close(method.loss(logits, targets), expected)
    assert method.needs_classes


def test_fkd_gives_the_stored_label_as_it_is(method_inputs):
    method = FKD(method_inputs(num_classes=3, temperature=2.0))
    stored = SoftTargets.full(torch.tensor([[0.2, 0.3, 0.5]]))
    targets = method.targets(batch_of([1], stored))
    assert targets.soft is stored
    assert not method.needs_classes
    logits = torch.randn(1, 3)
    torch.testing.assert_close(
        method.loss(logits, targets), F.cross_entropy(logits / 2.0, stored.dense())
    )


def test_kd_blends_the_teacher_with_the_truth(teacher, method_inputs):
    """Eq. 1 of the paper, written naively."""
    kd = KD(method_inputs(soft_weight=0.7, teacher=teacher))
    assert kd.formats == (STUDENT, InputSpec(48, teacher.views[0][1]))
    assert kd.needs_classes
    large = torch.randint(0, 256, (3, 3, 48, 48), dtype=torch.uint8)
    labels, logits = torch.tensor([1, 6, 3]), torch.randn(3, 7)
    targets = kd.targets(Batch((torch.empty(0), large), labels, None))
    p = np.exp(teacher.logits([large]).double().numpy())
    p /= p.sum(1, keepdims=True)
    log_q = torch.log_softmax(logits.double(), 1).numpy()
    soft = -(p * log_q).sum(1).mean()
    hard = -log_q[range(3), labels].mean()
    assert kd.loss(logits, targets).item() == pytest.approx(0.7 * soft + 0.3 * hard, rel=1e-5)


def test_a_teacher_that_wants_the_students_crops_gets_the_same(teacher, method_inputs):
    size, how, _ = teacher.views[0]
    kd = KD(method_inputs(student=InputSpec(size, how), teacher=teacher))
    assert kd.formats == (InputSpec(size, how),)
    augmented = InputSpec(size, how, augmented=True)
    kd = KD(method_inputs(student=augmented, teacher=teacher))
    assert kd.formats == (augmented, InputSpec(size, how))


def test_kd_asks_about_a_large_batch_in_chunks(teacher, monkeypatch, method_inputs):
    """On a CPU; every chunk but the last has the same size, and the order of the crops is kept."""
    kd, asked = KD(method_inputs(teacher=teacher)), []
    crops = [torch.randint(0, 256, (40, 3, s, s), dtype=torch.uint8) for s in (32, 48)]
    whole = teacher.probabilities(crops[1:])
    ask = type(teacher).answer

    def watch(self, views, **options):
        asked.append(len(views[0]))
        return ask(self, views, **options)

    monkeypatch.setattr(type(teacher), "answer", watch)
    targets = kd.targets(Batch(tuple(crops), torch.arange(40), None))
    assert asked == [16, 16, 8]
    torch.testing.assert_close(targets.soft.dense(), whole, rtol=1e-5, atol=1e-6)


def test_a_temperature_of_kd_divides_both_logits_and_counts_squared(teacher, method_inputs):
    """Hinton's loss, written naively."""
    kd = KD(method_inputs(temperature=3.0, teacher=teacher))
    large, logits = torch.randint(0, 256, (3, 3, 48, 48), dtype=torch.uint8), torch.randn(3, 7)
    targets = kd.targets(Batch((torch.empty(0), large), torch.zeros(3), None))
    p = torch.softmax(teacher.logits([large]) / 3.0, 1)
    expected = -9.0 * (p * torch.log_softmax(logits / 3.0, 1)).sum(1).mean()
    torch.testing.assert_close(kd.loss(logits, targets), expected)


def test_who_is_asked_online_sees_mixed_crops_and_the_truth_is_mixed_alike(teacher, method_inputs):
    kd = KD(method_inputs(soft_weight=0.5, teacher=teacher))
    crops = tuple(torch.randint(0, 256, (4, 3, s, s), dtype=torch.uint8) for s in (32, 48))
    partner = torch.tensor([2, 3, 1, 0])
    mix = Mix(partner, 0.25, None, (32, 32))
    batch = Batch(crops, torch.arange(4), None).mixed(mix)
    targets = kd.targets(batch)
    blended = batch.crops[1]
    assert not torch.equal(blended, crops[1])
    torch.testing.assert_close(targets.soft.dense(), teacher.probabilities([blended]))
    one_hot = F.one_hot(torch.arange(4), 7).float()
    torch.testing.assert_close(targets.truth.dense(), 0.25 * one_hot + 0.75 * one_hot[partner])


def test_stored_labels_are_mixed_like_the_pixels(method_inputs):
    stored = SoftTargets.full(torch.softmax(torch.randn(4, 3), 1))
    partner = torch.tensor([1, 0, 3, 2])
    batch = batch_of([0, 1, 2, 0], stored).mixed(Mix(partner, 0.5, (0, 0, 32, 16), (32, 32)))
    targets = FKD(method_inputs(num_classes=3)).targets(batch)
    expected = 0.5 * stored.weight + 0.5 * stored.weight[partner]
    torch.testing.assert_close(targets.soft.dense(), expected)
