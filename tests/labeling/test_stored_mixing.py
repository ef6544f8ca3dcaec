"""Mixtures that the teacher labeled: stored, replayed to the bit, checked, and never mistaken."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from fkd.crops.partners import StoredMixingConfig, blend, mixed_crops, partner_rows
from fkd.crops.replay import replay, sample_crops
from fkd.data.batches import CropCutter, CropFormat
from fkd.data.canary import check_canaries
from fkd.data.crop_sources import StoredCropSource
from fkd.data.joining import join_store
from fkd.data.multicrop import MultiCropDataset
from fkd.data.sources import ImagesConfig, load, open_source
from fkd.errors import ConfigError, CropMismatch, ImageError, StoreMismatch
from fkd.labeling import label, plan, spot_check
from fkd.models.teacher import load_teachers
from fkd.store import LabelStore, convert_store
from fkd.viewing import PageConfig, render_page

MIXING = StoredMixingConfig(mixup_alpha=0.8, cutmix_alpha=1.0, prob=0.8, partners=2)


@pytest.fixture(scope="module")
def config(make_config, tmp_path_factory):
    out = tmp_path_factory.mktemp("mixed") / "store"
    config = make_config(out, stored_mixing=MIXING, codec="full", value_dtype="f32", spot_checks=75)
    result = label(config)
    assert result.spot_checks.labels.num == 75
    assert result.spot_checks.labels.total_variation < 1e-5  # from what the store says
    return config


@pytest.fixture(scope="module")
def store(config) -> LabelStore:
    return LabelStore.open(config.out)


def mix_by_hand(source, config, records, i, crop, view) -> torch.Tensor:
    """One crop, and its partner if it has one, cut from the files without `replay`'s mixing."""

    def cut(position):
        image = load(source, position).image
        size = tuple(image.shape[1:])
        own = sample_crops(config.crops, source.key(position), size, np.array([crop]))
        return replay(image, own, *view)[0]

    picture = cut(i)
    extra = {name: array[i, crop].tolist() for name, array in records.extra.items()}
    if any(extra["mix_box"]):
        blend(picture, cut(extra["mix_row"]), extra["mix_share"], extra["mix_box"])
    return picture


def test_labels_are_the_teachers_output_on_the_mixtures(config, store):
    source, teachers = open_source(config.images), load_teachers([config.teacher])
    stored = store.read(np.arange(15))
    mixed = mixed_crops(stored.records)
    assert 40 < mixed.sum() < 75
    apart = 0
    for i in range(0, 15, 3):
        for crop in range(5):
            picture = mix_by_hand(source, config, stored.records, i, crop, teachers.views[0])
            expected = teachers.probabilities([picture[None]])[0].numpy()
            np.testing.assert_allclose(stored.label.values[i, crop], expected, atol=1e-5)
            apart += mixed[i, crop]
    assert apart > 10


def test_a_batch_has_the_very_pixels_that_the_teacher_saw(config, store):
    source, view = open_source(config.images), (32, "bicubic")
    views = StoredCropSource(source, store, join_store(source, store).rows, stride=2)
    cutter = CropCutter(source, views, [CropFormat(*view), CropFormat(17, "bilinear")])
    records = store.read(np.arange(15)).records
    images = [14, 0, 7, 3]
    for start in (0, 2, 4):
        batch = cutter.cut(images, start, 2)
        numbers = views.crop_numbers(np.array(images), start, 2)
        places = [(i, c) for i, row in zip(images, numbers, strict=True) for c in row.tolist()]
        for size, crops in zip((view, (17, "bilinear")), batch.crops, strict=True):
            for picture, (i, c) in zip(crops, places, strict=True):
                assert torch.equal(picture, mix_by_hand(source, config, records, i, c, size))


def test_the_data_set_for_other_loops_replays_mixtures(config, store):
    source = open_source(config.images)
    dataset = MultiCropDataset(source, store, crops_per_image=5, size=24, output="uint8", seed=3)
    records = store.read(np.arange(15)).records
    crops, targets = dataset[4]
    labels = torch.from_numpy(store.read([4]).label.values[0])
    for picture, target in zip(crops, targets.dense(), strict=True):
        crop = int((labels - target).abs().sum(1).argmin())
        assert torch.equal(picture, mix_by_hand(source, config, records, 4, crop, (24, "bilinear")))


def test_without_mixing_nothing_of_the_store_changes(config, make_config, tmp_path):
    label(make_config(tmp_path / "plain", codec="full", value_dtype="f32"))
    plain, mixed = LabelStore.open(tmp_path / "plain"), LabelStore.open(config.out)
    assert "stored_mixing" not in plain.config
    assert plain.config["extras"] == {}
    assert set(mixed.config) - set(plain.config) == {"stored_mixing"}
    ours, theirs = plain.read(np.arange(15)), mixed.read(np.arange(15))
    np.testing.assert_array_equal(ours.records.box, theirs.records.box)
    alone = ~mixed_crops(theirs.records)
    np.testing.assert_allclose(ours.label.values[alone], theirs.label.values[alone], atol=1e-5)
    assert np.abs(ours.label.values - theirs.label.values)[~alone].max() > 0.1


def test_bytes_do_not_depend_on_threads(config, tmp_path, files_of):
    label(replace(config, out=str(tmp_path / "store"), num_workers=3))
    assert files_of(tmp_path / "store") == files_of(config.out)


def test_other_mixing_is_refused_by_name(config):
    other = replace(config, stored_mixing=replace(MIXING, partners=1))
    with pytest.raises(StoreMismatch, match=r"stored_mixing\.partners: 2 in the store, 1 now"):
        label(other)


def test_canaries_and_spot_checks_rebuild_mixtures(config, store):
    source = open_source(config.images)
    report = check_canaries(store, source)
    assert report.num_exact == report.num == 15
    checks = spot_check(store, source, load_teachers([config.teacher]), 40)
    assert checks.labels.total_variation < 1e-5


def test_a_partner_that_was_changed_is_noticed(config, store, image_folder, tmp_path):
    """The image itself is as it was; the one that is mixed into it is not."""
    records = store.read(np.arange(15)).records
    row = next(r for r in range(15) if partner_rows(records[r]))
    root = tmp_path / "train"
    shutil.copytree(image_folder, root)
    source = open_source(ImagesConfig(root=str(root)))
    partner = partner_rows(records[row])[0]
    changed = root / source.key(partner).decode()
    changed.write_bytes((image_folder / source.key(row).decode()).read_bytes())
    views = StoredCropSource(source, store, np.arange(15), stride=5)
    cutter = CropCutter(source, views, [CropFormat(16, "bilinear")])
    with pytest.raises(CropMismatch, match=changed.name):
        cutter.cut([row], 0, 5)


@pytest.mark.parametrize("form", ["plain", "compact"])
def test_fewer_crops_keep_their_partners(store, config, tmp_path, form):
    after = convert_store(store.path, tmp_path / form, form=form, num_crops=3).after
    before, kept = store.read(np.arange(15)).records, after.read(np.arange(15)).records
    for name, array in kept.extra.items():
        np.testing.assert_array_equal(array, before.extra[name][:, :3])
    np.testing.assert_array_equal(kept.box, before.box[:, :3])
    source = open_source(config.images)
    assert spot_check(after, source, load_teachers([config.teacher]), 30).labels.max_kl < 2e-5


def test_the_page_shows_mixtures_and_wants_all_images(store, config, image_folder, tmp_path):
    source = open_source(config.images)
    assert "data:image/jpeg" in render_page(store, source, PageConfig(num_images=3))
    shutil.copytree(image_folder / "ant", tmp_path / "some" / "ant")
    some = open_source(ImagesConfig(root=str(tmp_path / "some"), format="folder"))
    with pytest.raises(StoreMismatch, match=r"crops are mixed with crops of .* which is not in"):
        render_page(store, some, PageConfig(num_images=15))


def test_size_and_time_are_planned_with_mixtures(config, store, tmp_path):
    found = plan(replace(config, out=str(tmp_path / "none")), sample_seconds=0.2)
    size = sum(f.stat().st_size for f in store.path.rglob("*") if f.is_file())
    assert found.num_bytes == pytest.approx(size, rel=0.02)


def test_crops_whose_partner_cannot_be_read_are_not_mixed(config, image_folder, tmp_path, files_of):
    """Such shards wait, so that a replaced file ends in the bytes of a run that never missed it."""
    root = tmp_path / "train"
    shutil.copytree(image_folder, root)
    broken = root / "cat" / "4.png"
    good = broken.read_bytes()
    broken.write_bytes(b"no picture")
    settings = replace(config, images=ImagesConfig(root=str(root)))
    with pytest.raises(ImageError, match="1 of 15 images cannot be labeled"):
        label(replace(settings, out=str(tmp_path / "mended")))
    label(replace(settings, out=str(tmp_path / "allowed"), max_unreadable=1))
    allowed = LabelStore.open(tmp_path / "allowed").read(np.arange(14)).records
    whole = LabelStore.open(config.out).read(np.arange(14)).records
    touched = mixed_crops(whole) & (whole.extra["mix_row"] == 14)
    assert touched.any()
    np.testing.assert_array_equal(mixed_crops(allowed), mixed_crops(whole) & ~touched)
    assert (
        check_canaries(LabelStore.open(tmp_path / "allowed"), open_source(settings.images)).num
        == 14
    )
    broken.write_bytes(good)
    label(replace(settings, out=str(tmp_path / "mended")))
    assert files_of(tmp_path / "mended") == files_of(config.out)


def test_one_image_has_nothing_to_be_mixed_with(config, image_folder, tmp_path):
    (tmp_path / "one").mkdir()
    shutil.copy(image_folder / "ant" / "0.png", tmp_path / "one")
    images = ImagesConfig(root=str(tmp_path / "one"))
    with pytest.raises(ConfigError, match=r"stored_mixing needs 2 to .* has 1; leave it out"):
        label(replace(config, images=images, out=str(tmp_path / "store")))
    assert not (tmp_path / "store").exists()
