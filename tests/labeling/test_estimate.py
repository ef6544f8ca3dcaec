"""The plan: within 2 % of what labeling then writes, and nothing written; for other images and
devices as if it had been made there."""

from pathlib import Path

import pytest

from fkd.data.sources import ImagesConfig
from fkd.errors import ConfigError, ImageError
from fkd.labeling.run import label


@pytest.mark.parametrize(
    ("per_class", "options"),
    [
        (5, {}),
        (1, {"num_crops": 1, "codec": "hard"}),
        (3, {"num_crops": 40, "codec": "ms:5", "images_per_shard": None}),
        (11, {"num_crops": 9, "codec": "full", "value_dtype": "f32", "images_per_shard": 7}),
        (30, {"num_crops": 2, "codec": "mr:2", "images_per_shard": 1}),
    ],
)
def test_bytes_are_predicted_within_two_percent(
    make_config, make_images, planned, tmp_path, per_class, options
):
    images = make_images(tmp_path / "train", per_class=per_class)
    store = tmp_path / "store"
    config = make_config(store, images=ImagesConfig(root=str(images)), **options)
    cost = planned(config)
    assert not store.exists()
    label(config)
    real = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    assert cost.num_bytes == pytest.approx(real, rel=0.02)
    assert cost.num_shards == len(list((store / "shards").iterdir()))
    assert cost.num_crops == 3 * per_class * config.num_crops
    assert cost.seconds == pytest.approx(cost.num_crops / cost.crops_per_second)
    assert cost.crops_per_second > 1
    assert cost.cut_per_second > 1


@pytest.mark.parametrize("form", ["plain", "compact"])
def test_more_images_than_are_there_are_planned_as_if_they_were(
    make_config, make_images, planned, tmp_path, form
):
    few, many = (make_images(tmp_path / str(n), per_class=n) for n in (4, 40))
    few, many = (
        make_config(
            tmp_path / "store",
            images=ImagesConfig(root=str(root)),
            form=form,
            images_per_shard=None,
        )
        for root in (few, many)
    )
    here, there = planned(few, for_images=120), planned(many)
    assert (here.num_images, here.num_crops, here.num_shards) == (120, 600, there.num_shards)
    assert here.num_bytes == pytest.approx(there.num_bytes, rel=0.01)


def test_the_device_with_most_shards_decides_when_all_are_done(make_config, planned, tmp_path):
    config = make_config(tmp_path / "store")  # 15 images in shards of 4, with 5 crops each
    seconds = [
        planned(config, crops_per_second=2.0, num_devices=n).seconds for n in (1, 2, 3, 4, 64)
    ]
    assert seconds == [15 * 5 / 2, 8 * 5 / 2, 8 * 5 / 2, 4 * 5 / 2, 4 * 5 / 2]
    cost = planned(config, crops_per_second=7e6)
    assert cost.crops_per_second == 7e6
    threads = cost.threads_needed(2)
    assert (threads - 1) * cost.cut_per_second / 2 < 7e6 <= threads * cost.cut_per_second / 2


@pytest.mark.parametrize(
    "options",
    [{"for_images": 0}, {"num_devices": 0}, {"crops_per_second": 0.0}, {"shards": "1/2"}],
)
def test_impossible_plans_are_refused(make_config, planned, tmp_path, options):
    config = make_config(tmp_path / "store", **({} if "shards" not in options else options))
    with pytest.raises(ConfigError, match=next(iter(options))):
        planned(config, **({} if "shards" in options else options))


def test_images_that_cannot_be_read_end_the_plan(make_config, planned, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"")
    config = make_config(tmp_path / "store", images=ImagesConfig(root=str(folder)))
    with pytest.raises(ImageError, match="none of 1 sampled images"):
        planned(config)
    assert not Path(config.out).exists()
