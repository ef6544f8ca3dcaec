"""Linear evaluation end to end: what it measures, what it keeps, and what it refuses."""

import json
from dataclasses import asdict, replace

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from fkd.data.sources import ImagesConfig
from fkd.errors import ConfigError
from fkd.evaluation.probe import NeighborsConfig, ProbeConfig, ProbeProgress, probe
from fkd.evaluation.protocols import ProtocolConfig


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A network with random weights, whose features tell colors apart all the same."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=7).state_dict(), file)
    return str(file)


@pytest.fixture
def config(make_images, tmp_path, weights):
    train = make_images(tmp_path / "train", per_class=10)
    val = make_images(tmp_path / "val", per_class=4, seed=1)
    return ProbeConfig(
        "test_resnet",
        checkpoint=weights,
        images=ImagesConfig(root=str(train)),
        val=ImagesConfig(root=str(val)),
        input_size=32,
        out=str(tmp_path / "features"),
        knn=NeighborsConfig(k=5),
        num_workers=0,
        device="cpu",
    )


class Told(ProbeProgress):
    """Keeps what it is told."""

    def __init__(self):
        self.stages, self.texts = [], []

    def remark(self, text):
        self.texts.append(text)

    def warn(self, text):
        self.texts.append(text)

    def begin(self, what, total):
        self.stages.append([what, total, 0])

    def advance(self, count):
        self.stages[-1][2] += count


@pytest.mark.parametrize("protocol", ["sweep", "sgd", "lars"])
def test_colors_are_told_apart(config, protocol):
    told = Told()
    epochs = None if protocol == "sweep" else 40
    settings = ProtocolConfig(name=protocol, epochs=epochs, batch_size=10)
    report = probe(replace(config, protocol=settings), told)
    assert (report.num_images, report.num_val_images, report.num_classes) == (30, 12, 3)
    assert report.knn_top1 > 80
    assert report.linear.top1 > 60
    assert report.linear.top5 == 100
    assert [what for what, _, _ in told.stages] == [
        *("training images", "validation images", "nearest neighbors", "linear classifier")
    ]
    assert all(total == done for _, total, done in told.stages)
    assert json.loads(json.dumps(asdict(report)))["protocol"] == protocol


def test_features_are_used_again_by_every_other_setting(config, monkeypatch):
    first = probe(config)
    monkeypatch.setattr("fkd.evaluation.features._compute", None)  # would fail
    assert probe(config) == first
    other = replace(config, knn=NeighborsConfig(k=1), protocol=ProtocolConfig(epochs=3))
    assert probe(other).linear.learning_rate in first.linear.held_out_top1


def test_classes_are_matched_by_name_whatever_their_order(config, tmp_path):
    """CIFAR's classes come in an order of their own; here a Parquet file's do."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    files = sorted((tmp_path / "val").glob("*/*.png"))
    rows = {"image": [file.read_bytes() for file in files]}
    rows["label"] = [["cat", "ant", "bee"].index(file.parent.name) for file in files]
    names = {"names": ["cat", "ant", "bee"], "_type": "ClassLabel"}
    features = {"info": {"features": {"label": names, "image": {"_type": "Image"}}}}
    table = pa.table(rows).replace_schema_metadata({"huggingface": json.dumps(features)})
    parquet.write_table(table, tmp_path / "val.parquet")
    reference = probe(config)
    report = probe(replace(config, val=ImagesConfig(root=str(tmp_path / "val.parquet"))))
    assert (report.knn_top1, report.linear.top1) == (reference.knn_top1, reference.linear.top1)


def test_a_network_of_any_library_will_do(config, tmp_path):
    from torchvision.models import mobilenet_v3_small

    torch.manual_seed(0)
    save_file(mobilenet_v3_small().state_dict(), tmp_path / "weights.safetensors")
    report = probe(
        replace(
            config,
            model="torchvision/mobilenet_v3_small",
            checkpoint=str(tmp_path / "weights.safetensors"),
            protocol=ProtocolConfig(epochs=2),
        )
    )
    assert report.num_features == 1024
    assert report.model == "torchvision/mobilenet_v3_small"


def test_the_same_images_twice_are_a_warning(config):
    told = Told()
    probe(replace(config, val=config.images), told)
    assert any("the same images" in text for text in told.texts)


def refusal(config) -> str:
    with pytest.raises(ConfigError) as caught:
        probe(config)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_images_without_classes_are_refused(config):
    for name in ("images", "val"):
        flat = replace(getattr(config, name), format="flat")
        message = refusal(replace(config, **{name: flat}))
        assert message.startswith(f"{name}: {flat.root} has no classes")
        assert "class folders" in message


@pytest.mark.parametrize("extra", ["train", "val", "both"])
def test_other_classes_are_refused_and_named(config, tmp_path, extra):
    for name in ("train", "val"):
        if extra in (name, "both"):
            folder = tmp_path / name / f"only{name}"
            folder.mkdir()
            Image.new("RGB", (20, 20)).save(folder / "0.png")
    message = refusal(config)
    assert message.startswith("val: classes are matched by name")
    for name in ("train", "val"):
        assert (f"only{name}" in message) == (extra in (name, "both"))


def test_a_single_class_is_refused(config, tmp_path, make_images):
    root = str(make_images(tmp_path / "single", classes=("ant",), per_class=25))
    single = ImagesConfig(root=root, format="classes")
    assert "has one class only (ant)" in refusal(replace(config, images=single, val=single))


@pytest.mark.parametrize("part", ["images", "val"])
def test_a_class_without_images_is_refused(config, tmp_path, part):
    """Folders without images are refused when they are listed; a Parquet file may name any."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    files = sorted((tmp_path / "train").glob("*/*.png"))
    names = {"names": ["ant", "bee", "cat", "elk"], "_type": "ClassLabel"}
    features = {"info": {"features": {"label": names, "image": {"_type": "Image"}}}}
    for name, labels in (("full", 4), ("lacking", 3)):
        rows = {
            "image": [file.read_bytes() for file in files],
            "label": [i % labels for i in range(len(files))],
        }
        table = pa.table(rows).replace_schema_metadata({"huggingface": json.dumps(features)})
        parquet.write_table(table, tmp_path / f"{name}.parquet")
    full, lacking = (
        ImagesConfig(root=str(tmp_path / f"{name}.parquet")) for name in ("full", "lacking")
    )
    other = "val" if part == "images" else "images"
    message = refusal(replace(config, **{part: lacking, other: full}))
    assert message.startswith(f"{part}: ")
    assert "has no images of 1 of its 4 classes (elk)" in message


def test_too_few_images_are_refused_before_the_network_runs(config, monkeypatch):
    monkeypatch.setattr("fkd.evaluation.probe.load_or_compute", None)
    assert "knn.k is 31, but there are 30 training images" in refusal(
        replace(config, knn=NeighborsConfig(k=31))
    )
    small = replace(config, images=config.val)
    message = refusal(small)
    assert "a linear probe needs 20 training images" in message
    assert "there are 12" in message


def test_weights_that_do_not_fit_are_refused(config, tmp_path):
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "other.safetensors")
    message = refusal(replace(config, checkpoint=str(tmp_path / "other.safetensors")))
    assert "does not fit the model" in message
    assert "no folder nowhere here, and no network" in refusal(replace(config, model="nowhere"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"num_workers": -1}, "num_workers must be at least 0"),
        ({"input_size": 0}, "input_size must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(config, options, message):
    with pytest.raises(ConfigError, match=message):
        replace(config, **options)


def test_the_folder_of_images_is_no_place_for_features(config):
    with pytest.raises(ConfigError, match="is the folder of the images"):
        replace(config, out=config.images.root)


@pytest.mark.parametrize("field", ["k", "temperature"])
def test_impossible_votes_are_refused(field):
    with pytest.raises(ConfigError, match=f"knn.{field} must be"):
        NeighborsConfig(**{field: 0})
