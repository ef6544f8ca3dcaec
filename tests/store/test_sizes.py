import pytest

from fkd.store import predict_num_bytes

SIZES = [
    {"num_images": 1, "num_crops": 1},
    {"num_images": 20, "num_crops": 3},
    {"num_images": 70, "num_crops": 10, "images_per_shard": 1},
    {"num_images": 64, "num_crops": 200, "num_classes": 1000, "codec": "ms:5"},
    {"num_images": 30, "num_crops": 5, "num_classes": 1000, "codec": "full", "value_dtype": "f16"},
    {"num_images": 30, "num_crops": 5, "num_classes": 99, "codec": "logits", "value_dtype": "i8"},
    {"num_images": 900, "num_crops": 4, "codec": "hard", "images_per_shard": 100},
    {"num_images": 300, "num_crops": 7, "num_classes": 70_000, "codec": "mr:3"},
]


def bytes_on_disk(path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    "sizes", SIZES, ids=lambda s: f"{s['num_images']}x{s['num_crops']} {s.get('codec', '')}"
)
@pytest.mark.parametrize("extras", [False, True])
def test_the_size_of_a_store_is_predicted_within_2_percent(lab, tmp_path, sizes, extras):
    job = lab.Job(**sizes, extras=lab.JITTER if extras else {})
    mean = sum(map(len, job.keys)) / len(job.keys)
    environment = {"numpy": "2.4.0", "torch": "2.15.0", "cpu": "a processor of some kind"}
    canary = {"crop": 0, "row": 0, "sha256": "0" * 64, "thumbnail": "A" * 256}
    canaries = [canary | {"row": row} for row in range(min(64, len(job.keys)))]
    job.run(tmp_path / "s", environment=environment, canaries=canaries)
    options = {"num_canaries": len(canaries), "environment": environment}
    predicted = predict_num_bytes(job.config, mean, **options)
    assert predicted == pytest.approx(bytes_on_disk(tmp_path / "s"), rel=0.02)
    without = predict_num_bytes(job.config, mean, environment=environment)
    assert predicted - without == pytest.approx(370 * len(canaries), rel=0.03)


@pytest.mark.parametrize("form", ["compact", "recomputed"])
@pytest.mark.parametrize("codec", ["ms:5", "ms:10", "hard"])
def test_the_size_of_a_compact_store_is_predicted_roughly(lab, tmp_path, form, codec):
    job = lab.Job(num_images=40, num_crops=50, num_classes=40, codec=codec, form=form)
    mean = sum(map(len, job.keys)) / len(job.keys)
    job.run(tmp_path / "s", environment={"numpy": "2.4.0"})
    predicted = predict_num_bytes(job.config, mean, num_canaries=1)
    assert predicted == pytest.approx(bytes_on_disk(tmp_path / "s"), rel=0.34)


def test_200_crops_of_ms_5_take_less_than_30_bytes_each(lab, tmp_path):
    job = lab.Job(num_images=256, num_crops=200, num_classes=1000, codec="ms:5")
    job.run(tmp_path / "s")
    shards = sum(file.stat().st_size for file in (tmp_path / "s/shards").iterdir())
    assert shards / (256 * 200) < 30  # with 8 images a shard, the least favorable case
    larger = lab.Job(
        num_images=256, num_crops=200, num_classes=1000, codec="ms:5", images_per_shard=256
    )
    larger.run(tmp_path / "l")
    assert bytes_on_disk(tmp_path / "l") / (256 * 200) < 29
