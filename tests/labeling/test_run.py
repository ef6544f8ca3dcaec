"""Labeling end to end: what is stored, sameness of bytes, resume, and codecs."""

import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fkd.crops.augment import AugmentConfig
from fkd.crops.replay import replay, sample_crops
from fkd.crops.sampling import CropConfig
from fkd.data.sources import ImagesConfig, load, open_source
from fkd.errors import ConfigError, StoreMismatch
from fkd.labeling.config import resolve_images_per_shard
from fkd.labeling.run import Progress, label
from fkd.labels.codecs import MarginalSmoothing, decode
from fkd.models.teacher import load_teachers
from fkd.store import LabelStore


class Stop(Exception):
    """Ends a run from inside, as Ctrl-C would."""


class StopAfter(Progress):
    def __init__(self, num_crops):
        self.left = num_crops

    def advanced(self, num_crops):
        self.left -= num_crops
        if self.left < 0:
            raise Stop


@pytest.fixture(scope="module")
def plain(make_config, tmp_path_factory):
    """The finished store of the plain settings."""
    config = make_config(tmp_path_factory.mktemp("plain") / "store")
    label(config)
    return config


@pytest.fixture(scope="module")
def exact(make_config, tmp_path_factory):
    """A store of all probabilities in float32, where the last bit of an output shows."""
    out = tmp_path_factory.mktemp("exact") / "store"
    config = make_config(out, codec="full", value_dtype="f32", batch_size=4, spot_checks=0)
    label(config)
    return config


def labels_of(store: LabelStore) -> tuple[np.ndarray, torch.Tensor]:
    """Class ids (images * M, K) and decoded labels (images * M, C)."""
    label = store.read(np.arange(len(store))).label.flat()
    return label.ids, decode(store.codec, label, store.num_classes)


def test_labels_are_the_teachers_output_on_the_recorded_crops(plain):
    """The oracle is the plainest loop there is: one image, one crop, one forward pass at a time."""
    store, source = LabelStore.open(plain.out), open_source(plain.images)
    teachers = load_teachers([plain.teacher])
    stored = store.read(np.arange(len(store)))
    expected = []
    for i in range(len(source)):
        loaded = load(source, i)
        image, content = loaded.image, struct.pack("<IQ", loaded.crc32, loaded.num_bytes)
        records = sample_crops(plain.crops, content, loaded.size, np.arange(5))
        np.testing.assert_array_equal(stored.records.box[i], records.box)
        np.testing.assert_array_equal(stored.records.flip[i], records.flip)
        for k in range(5):
            crop = replay(image, records[k : k + 1], *teachers.views[0][:2])
            expected.append(teachers.probabilities([crop]))
    expected = torch.cat(expected)
    index, decoded = labels_of(store)
    top = expected.topk(3)
    np.testing.assert_array_equal(index, top.indices.numpy())
    torch.testing.assert_close(decoded.gather(1, top.indices), top.values, atol=2e-5, rtol=1e-4)
    assert len({int(i) for i in index[:, 0]}) > 1  # the labels are not all the same


@pytest.mark.parametrize("num_workers", [1, 3])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bytes_do_not_depend_on_threads(exact, tmp_path, files_of, num_workers, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        label(replace(exact, out=str(tmp_path / "store"), num_workers=num_workers))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert files_of(tmp_path / "store") == files_of(exact.out)


@pytest.mark.parametrize("num_crops", [0, 1, 20, 41, 74])
def test_a_stopped_run_goes_on_to_the_same_bytes(plain, tmp_path, files_of, num_crops):
    config = replace(plain, out=str(tmp_path / "store"))
    with pytest.raises(Stop):
        label(config, StopAfter(num_crops))
    committed = len(list((tmp_path / "store" / "commits").iterdir()))
    assert committed < 4
    done = []

    class Listener(Progress):
        def started(self, start):
            done.append((start.num_crops_done, start.num_crops))

    label(config, Listener())
    assert done == [(20 * committed, 75 - 20 * committed)]
    assert files_of(config.out) == files_of(plain.out)


def test_a_finished_store_is_left_alone(plain, files_of):
    before = files_of(plain.out)
    result = label(plain)
    assert files_of(plain.out) == before
    assert result.store.root_hash == LabelStore.open(plain.out).root_hash
    assert result.spot_checks is None


@pytest.mark.parametrize(
    ("option", "value", "field"),
    [
        ("crops", CropConfig(seed=1), "crops.seed"),
        ("num_crops", 6, "num_crops"),
        ("crops", CropConfig(scale=(0.1, 1.0)), "crops.scale"),
        ("crops", CropConfig(flip_prob=0.0), "crops.flip_prob"),
        ("codec", MarginalSmoothing(2), "codec"),
        ("value_dtype", "f16", "value_dtype"),
        ("batch_size", 4, "numerics.batch_size"),
        ("numerics", "fast", "numerics.autocast"),
        ("images_per_shard", 3, "images_per_shard"),
        ("teacher_augment", AugmentConfig(grayscale_prob=0.5), "teacher_augment.grayscale_prob"),
    ],
)
def test_other_settings_are_refused_and_named(plain, files_of, option, value, field):
    before = files_of(plain.out)
    with pytest.raises(StoreMismatch, match=rf"{field}\b.*in the store"):
        label(replace(plain, **{option: value}))
    assert files_of(plain.out) == before


def test_another_teacher_is_refused_and_named(plain, make_teacher, tmp_path):
    other = make_teacher(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(StoreMismatch, match=r"teachers\.0\.weights_sha256"):
        label(replace(plain, teacher=other))
    with pytest.raises(StoreMismatch, match=r"teachers\.0\.temperature: 1\.0 in the store, 2\.0"):
        label(replace(plain, teacher=replace(plain.teacher, temperature=2.0)))


def test_other_images_are_refused(plain, make_images, tmp_path):
    images = make_images(tmp_path / "train", per_class=4)
    with pytest.raises(StoreMismatch, match="num_images: 15 in the store, 12 now"):
        label(replace(plain, images=ImagesConfig(root=str(images))))


SIGMOIDS = ["sigmoid", "sigmoid:3"]


@pytest.mark.parametrize(
    "codec", ["full", "hard", "smoothing", "mr:2", "ms:7", "logits", *SIGMOIDS]
)
def test_every_codec_ends_in_a_checked_store(make_config, tmp_path, codec):
    result = label(make_config(tmp_path / "store", codec=codec))
    assert result.spot_checks.labels.num == 16
    assert result.spot_checks.labels.top1_agreement == 1.0
    assert result.spot_checks.labels.mean_kl < 1e-5
    store = LabelStore.open(tmp_path / "store")
    value_dtype = {"logits": "f16", "hard": None}.get(codec, "u16")
    assert store.config.get("value_dtype") == value_dtype
    if codec not in SIGMOIDS:
        torch.testing.assert_close(store[store.keys([0])[0]].decode().sum(1), torch.ones(5))


def test_more_kept_classes_than_there_are_is_refused_before_anything_is_written(
    make_config, tmp_path
):
    with pytest.raises(ConfigError, match=r"ms:8 keeps 8 classes but there are only 7"):
        label(make_config(tmp_path / "store", codec="ms:8"))
    assert not (tmp_path / "store").exists()


def test_replayed_augmentations_are_what_the_teacher_saw(make_config, plain, tmp_path):
    """With f32 values the spot checks, which replay from the store, must agree to the last bits."""
    augment = AugmentConfig(
        color_jitter=(0.4, 0.4, 0.4, 0.1),
        grayscale_prob=0.3,
        blur_prob=0.5,
        rand_augment_ops=2,
        erase_prob=0.5,
    )
    config = make_config(
        tmp_path / "store", teacher_augment=augment, codec="full", value_dtype="f32", spot_checks=75
    )
    assert label(config).spot_checks.labels.total_variation < 1e-5
    store = LabelStore.open(config.out)
    records = store.read(np.arange(len(store))).records
    assert set(records.extra) == set(augment.columns)
    assert records.extra["jitter"].shape == (15, 5, 4)
    np.testing.assert_array_equal(
        records.box, LabelStore.open(plain.out).read(np.arange(15)).records.box
    )


def test_exif_orientation_is_ignored_alike_when_labeling_and_checking(make_config, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (40, 64, 3), dtype=np.uint8)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(folder / f"{orientation}.jpg", exif=exif)
    config = make_config(tmp_path / "store", images=ImagesConfig(root=str(folder)))
    assert label(config).spot_checks.labels.top1_agreement == 1.0
    size = LabelStore.open(config.out).images(np.arange(8)).size
    np.testing.assert_array_equal(size, [[40, 64]] * 8)


def test_an_ensemble_is_averaged_over_all_classes_on_the_same_crops(
    make_config, make_teacher, tmp_path
):
    teachers = [
        make_teacher(tmp_path / "a.safetensors", seed=1, weight=3.0),
        make_teacher(tmp_path / "b.safetensors", seed=2, input_size=48),
    ]
    options = {"codec": "full", "value_dtype": "f32"}
    label(make_config(tmp_path / "both", teachers=teachers, **options))
    alone = []
    for i, teacher in enumerate(teachers):
        label(make_config(tmp_path / str(i), teacher=teacher, **options))
        alone.append(labels_of_full(tmp_path / str(i)))
    mean = (3 * alone[0] + alone[1]) / 4
    np.testing.assert_allclose(labels_of_full(tmp_path / "both"), mean, atol=1e-5)


def labels_of_full(path):
    store = LabelStore.open(path)
    return store.read(np.arange(len(store))).label.values


def test_the_data_sets_classes_can_be_picked_from_the_head(make_config, make_teacher, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(["wasp", "cat", "ant", "dog", "bee", "fly", "elk"]))
    teacher = make_teacher(tmp_path / "m.safetensors", class_names=str(names))
    options = {"teacher": teacher, "codec": "full", "value_dtype": "f32"}
    label(make_config(tmp_path / "all", **options))
    label(make_config(tmp_path / "ours", classes="dataset", **options))
    store = LabelStore.open(tmp_path / "ours")
    assert store.class_names == ("ant", "bee", "cat")
    ours, everything = labels_of_full(tmp_path / "ours"), labels_of_full(tmp_path / "all")
    picked = everything[..., [2, 4, 1]]
    np.testing.assert_allclose(ours, picked / picked.sum(-1, keepdims=True), rtol=1e-3, atol=1e-6)


def test_images_in_a_shard_follow_from_their_number():
    assert resolve_images_per_shard(None, 1_281_167, 200) == 1252  # at most 1,024 shards
    assert resolve_images_per_shard(None, 500, 200) == 16  # at least 16 images
    assert resolve_images_per_shard(None, 500, 20) == 52  # and 1,024 crops
    assert resolve_images_per_shard(9, 500, 200) == 9


def test_teachers_of_different_views_share_one_decoding(
    make_config, make_teacher, tmp_path, monkeypatch
):
    decoded, teachers = [], []
    for size in (32, 40, 32):
        file = tmp_path / f"{len(teachers)}.safetensors"
        teachers.append(make_teacher(file, seed=len(teachers), input_size=size))

    def watch(source, i):
        decoded.append(i)
        return load(source, i)

    monkeypatch.setattr("fkd.labeling.setup.load", watch)
    label(make_config(tmp_path / "store", teachers=teachers, spot_checks=0))
    assert sorted(decoded) == list(range(15))
