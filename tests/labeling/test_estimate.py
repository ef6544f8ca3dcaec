"""The plan: within 2 % of what labeling then writes, and nothing written."""

from pathlib import Path

import pytest

from fkd.data.sources import ImagesConfig
from fkd.errors import ImageError
from fkd.labeling.estimate import plan
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
    make_config, make_images, tmp_path, per_class, options
):
    images = make_images(tmp_path / "train", per_class=per_class)
    store = tmp_path / "store"
    config = make_config(store, images=ImagesConfig(root=str(images)), **options)
    planned = plan(config, sample_seconds=0.05)
    assert not store.exists()
    label(config)
    real = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    assert planned.num_bytes == pytest.approx(real, rel=0.02)
    assert planned.num_shards == len(list((store / "shards").iterdir()))
    assert planned.num_crops == 3 * per_class * config.num_crops
    assert planned.teacher_seconds == pytest.approx(planned.num_crops / planned.crops_per_second)
    assert planned.crops_per_second > 1


def test_images_that_cannot_be_read_end_the_plan(make_config, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"")
    config = make_config(tmp_path / "store", images=ImagesConfig(root=str(folder)))
    with pytest.raises(ImageError, match="none of 1 sampled images"):
        plan(config, sample_seconds=0.05)
    assert not Path(config.out).exists()
