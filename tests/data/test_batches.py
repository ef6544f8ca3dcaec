"""Batches: the crops and labels of the store, exactly, or an error that names the image."""

import multiprocessing
import os

import numpy as np
import pytest
import torch

from fkd.crops.augment import AugmentConfig
from fkd.crops.replay import InputSpec, replay, sample_crops
from fkd.crops.sampling import CropConfig
from fkd.data.batches import Batch, CropCutter, load_batches
from fkd.data.crop_sources import CropRequest, FreshCropSource, StoredCropSource
from fkd.data.joining import join_store, map_classes
from fkd.data.sources import ImagesConfig, load, open_source
from fkd.errors import ConfigError, CropMismatch, ImageError, MissingLabel, StoreMismatch
from fkd.store import LabelStore

SMALL = InputSpec(16, "bilinear")
LARGE = InputSpec(24, "bicubic")


@pytest.fixture
def views(image_source, label_store) -> StoredCropSource:
    return StoredCropSource(image_source, label_store, crops_per_image=2)


@pytest.fixture
def cutter(image_source, label_store, views) -> CropCutter:
    ids = map_classes(image_source.class_names, label_store.class_names)
    return CropCutter(image_source, views, [SMALL, LARGE], class_ids=ids)


def test_a_batch_holds_the_stored_crops_and_their_labels(cutter, views, image_source, label_store):
    images = [7, 0, 14]
    batch = cutter.cut(images, start=4, crops_per_image=2)
    numbers = views.crop_numbers(np.array(images), 4, 2)
    dense = batch.targets.dense()
    for j, i in enumerate(images):
        entry = label_store[image_source.key(i)]
        pixels = load(image_source, i).image
        for k, number in enumerate(numbers[j].tolist()):
            place = 2 * j + k
            record = entry.records[number : number + 1]
            for crops, (size, how, _) in zip(batch.crops, [SMALL, LARGE], strict=True):
                assert torch.equal(crops[place], replay(pixels, record, size, how)[0])
            torch.testing.assert_close(dense[place], entry.decode()[number])
    assert batch.labels.tolist() == [1, 1, 0, 0, 2, 2]
    assert batch.targets.labels.tolist() == batch.labels.tolist()
    assert len(batch) == 6


@pytest.mark.parametrize(
    ("codec", "value_dtype"),
    [
        *(("full", "f32"), ("full", "u16"), ("hard", None), ("smoothing", None)),
        *(("ms:4", "f32"), ("mr:2", "u16"), ("logits", "f16")),
    ],
)
def test_labels_of_every_codec_reach_the_batch(
    codec, value_dtype, image_source, make_store, tmp_path
):
    store = make_store(tmp_path / "store", image_source, codec=codec, value_dtype=value_dtype)
    views = StoredCropSource(image_source, store, crops_per_image=3)
    batch = CropCutter(image_source, views, [SMALL]).cut([5, 2], start=0, crops_per_image=3)
    numbers = views.crop_numbers(np.array([5, 2]), 0, 3)
    stored = [store[image_source.key(i)].decode()[numbers[j]] for j, i in enumerate((5, 2))]
    dense = batch.targets.dense()
    assert torch.equal(dense, torch.cat(stored))
    torch.testing.assert_close(dense.sum(1), torch.ones(6))


def test_crops_are_contiguous_channels_last_uint8(cutter):
    for crops in cutter.cut([1, 2], 0, 2).crops:
        assert crops.dtype == torch.uint8
        assert crops.is_contiguous(memory_format=torch.channels_last)


def test_all_crops_of_a_cycle_are_seen_once(views):
    seen = np.concatenate(
        [views.crop_numbers(np.arange(15), start, 2) for start in range(0, 6, 2)], axis=1
    )
    assert np.array_equal(np.sort(seen, axis=1), np.broadcast_to(range(6), (15, 6)))


def test_independent_draws_may_repeat_between_passes_but_not_within(image_source, label_store):
    views = StoredCropSource(image_source, label_store, crops_per_image=3, order="iid")
    passes = [views.crop_numbers(np.arange(15), start, 3) for start in (0, 3)]
    for crops in passes:
        assert all(len(set(row)) == 3 for row in crops.tolist())
    both = np.concatenate(passes, axis=1)
    assert any(len(set(row)) < 6 for row in both.tolist())


def test_more_crops_than_stored_are_refused(image_source, label_store):
    with pytest.raises(ConfigError, match="the store has 6 crops per image, asked for 7"):
        StoredCropSource(image_source, label_store, crops_per_image=7)


def test_fresh_crops_are_numbered_by_their_positions(image_source):
    """So a student that is shown M fresh crops sees what a store with M crops would hold."""
    config = CropConfig(seed=5)
    cutter = CropCutter(image_source, FreshCropSource(image_source, config), [SMALL])
    batch = cutter.cut([3], start=10, crops_per_image=2)
    pixels = load(image_source, 3).image
    records = sample_crops(config, image_source.key(3), pixels.shape[1:], np.array([10, 11]))
    assert torch.equal(batch.crops[0], replay(pixels, records, 16, "bilinear"))
    assert batch.targets is None


def test_student_augmentation_is_drawn_for_augmented_formats_only(image_source, label_store, views):
    strong = AugmentConfig(color_jitter=(0.8, 0.8, 0.8, 0.3))
    formats = [SMALL, SMALL._replace(augmented=True)]
    cutter = CropCutter(image_source, views, formats, student_augment=strong, seed=1)
    plain, augmented = cutter.cut([2, 3], 0, 2).crops
    assert not torch.equal(plain, augmented)
    assert torch.equal(cutter.cut([2, 3], 0, 2).crops[1], augmented)
    assert not torch.equal(cutter.cut([2, 3], 2, 2).crops[1], augmented)


def test_classes_are_matched_by_name():
    assert map_classes(["dog", "bee", "elk"], ["ant", "bee", "dog"]).tolist() == [2, 1, -1]
    assert map_classes(None, ["ant"]) is None


def test_images_without_classes_have_the_label_minus_one(views, image_folder):
    flat = open_source(ImagesConfig(root=str(image_folder), format="flat"))
    assert CropCutter(flat, views, [SMALL]).cut([0, 1], 0, 1).labels.tolist() == [-1, -1]


WORKERS = [
    {"num_workers": 0},
    {"num_workers": 2, "workers": "processes"},
    {"num_workers": 2, "workers": "threads"},
    {"num_workers": 2, "workers": "threads", "bursts": True},
]


@pytest.mark.parametrize("options", WORKERS)
def test_batches_come_in_the_order_of_their_requests(cutter, options):
    requests = [[CropRequest(i, start, 2) for i in (start, start + 1)] for start in (0, 2, 4)]
    batches = list(load_batches(cutter, requests, pin_memory=False, **options))
    assert len(batches) == 3
    for batch, start in zip(batches, (0, 2, 4), strict=True):
        expected = cutter.cut([start, start + 1], start, 2)
        assert all(torch.equal(a, b) for a, b in zip(batch.crops, expected.crops, strict=True))
        assert torch.equal(batch.targets.dense(), expected.targets.dense())


@pytest.mark.parametrize("options", WORKERS)
@pytest.mark.parametrize("damage", ["replace", "truncate", "remove"])
def test_a_changed_image_is_named_in_one_sentence(
    tmp_path, make_images, make_store, options, damage
):
    """Also from a worker process, whose errors torch would wrap into a page of text."""
    source = open_source(ImagesConfig(root=str(make_images(tmp_path / "images"))))
    store = make_store(tmp_path / "store", source)
    victim, other = (tmp_path / "images/bee" / f"{i}.png" for i in (0, 1))
    if damage == "replace":
        os.replace(other, victim)
        os.link(victim, other)
    elif damage == "truncate":
        victim.write_bytes(victim.read_bytes()[:-20])
    else:
        victim.unlink()
    views = StoredCropSource(source, store, crops_per_image=1)
    requests = [[CropRequest(4, 0, 1)], [CropRequest(5, 0, 1)]]
    cutter = CropCutter(source, views, [SMALL])
    batches = load_batches(cutter, requests, pin_memory=False, **options)
    next(batches)
    with pytest.raises((CropMismatch, ImageError), match=r"bee/0\.png") as caught:
        next(batches)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_an_image_of_another_size_is_refused(views, image_source, label_store, monkeypatch):
    """A decoder that turns pictures by their EXIF data would crop another region."""
    loaded = load(image_source, 0)
    turned = type(loaded)(loaded.image.transpose(1, 2), loaded.crc32, loaded.num_bytes)
    with pytest.raises(CropMismatch, match="decodes to"):
        views.select(np.array([0]), 0, 1).records(0, turned)


def test_unreadable_images_are_known_when_joining(tmp_path, image_source, make_store):
    store = make_store(tmp_path / "store", image_source, unreadable=(2, 9))
    join = join_store(image_source, store)
    assert join.labeled.tolist() == [i for i in range(15) if i not in (2, 9)]
    views = StoredCropSource(image_source, store, crops_per_image=1)
    with pytest.raises(MissingLabel):
        views.select(np.array([2]), 0, 1)


def test_renamed_images_are_called_renamed(tmp_path, make_images, make_store):
    root = make_images(tmp_path / "images")
    store = make_store(tmp_path / "store", open_source(ImagesConfig(root=str(root))))
    (root / "ant/0.png").rename(root / "ant/zero.png")
    with pytest.raises(StoreMismatch, match=r"1 renamed \(first: ant/0.png is now ant/zero.png\)"):
        join_store(open_source(ImagesConfig(root=str(root))), LabelStore.open(store.path))


@pytest.mark.parametrize("options", WORKERS)
def test_every_batch_is_pinned_once_and_an_abandoned_stream_ends(cutter, options, monkeypatch):
    pinned = []

    def pin(batch):
        pinned.append(batch)
        return batch

    monkeypatch.setattr(Batch, "pin_memory", pin)
    requests = [[CropRequest(i % 15, 0, 2)] for i in range(40)]
    batches = load_batches(cutter, requests, pin_memory=True, **options)
    first = [next(batches) for _ in range(3)]
    assert all(any(batch is other for other in pinned) for batch in first)
    batches.close()
    for child in multiprocessing.active_children():
        child.join(30)
    assert not multiprocessing.active_children()
    whole = list(load_batches(cutter, requests[:5], pin_memory=True, **options))
    for batch, (request,) in zip(whole, requests, strict=False):
        assert torch.equal(batch.crops[0], cutter.cut([request.image], 0, 2).crops[0])
    assert len(whole) == 5
