"""`fkd.label` and `fkd.verify`: objects in, the stores of the command line out."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.datasets import ImageFolder

import fkd
from fkd.cli import main
from fkd.data.arrays import ArraySource
from fkd.errors import ConfigError, CropMismatch, DamagedStore, FKDError, StoreMismatch
from fkd.labeling.run import Progress

SMALL = {"num_crops": 3, "device": "cpu", "batch_size": 8, "images_per_shard": 4}
CHEAP = SMALL | {"accuracy_images": 0, "spot_checks": 0}


class Pooled(nn.Module):
    """A teacher that no name stands for: the mean color of nine fields, then a linear layer."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.fc = nn.Linear(27, 3)
        with torch.no_grad():
            self.fc.weight *= 20

    def forward(self, pixels):
        return self.fc(nn.functional.adaptive_avg_pool2d(pixels, 3).flatten(1))


OWN = {"input_size": 24, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2)}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", num_classes=3)
    with torch.no_grad():
        model.classifier.weight *= 300
    return model


@pytest.fixture(scope="module")
def files(network, tmp_path_factory):
    """The same network for the command line."""
    folder = tmp_path_factory.mktemp("network")
    save_file(network.state_dict(), folder / "weights.safetensors")
    (folder / "names.txt").write_text("ant\nbee\ncat\n")
    return [
        *("--teacher.name", "test_efficientnet", "--teacher.input_size", "32"),
        *("--teacher.checkpoint", str(folder / "weights.safetensors")),
        *("--teacher.class_names", str(folder / "names.txt")),
    ]


@pytest.fixture(scope="module")
def own(image_folder, tmp_path_factory):
    """A store of a module that has no name."""
    out = tmp_path_factory.mktemp("own") / "store"
    return fkd.label(str(image_folder), Pooled(), out=out, **SMALL, **OWN, accuracy_images=0)


def files_of(store) -> dict[str, bytes]:
    """Every file of a store but the lock: name to bytes."""
    paths = [path for path in store.rglob("*") if path.is_file() and path.name != "lock"]
    return {str(path.relative_to(store)): path.read_bytes() for path in paths}


def words(settings):
    return [w for name, value in settings.items() for w in (f"--{name}", str(value))]


@pytest.mark.filterwarnings("ignore:the teacher is right on")  # its weights are random
@pytest.mark.parametrize(
    "settings",
    [
        {"codec": "ms:2"},
        {"codec": "full", "value_dtype": "f32", "numerics": "fast"},
        {"codec": "ms:2", "form": "compact", "max_images": 7, "classes": "dataset"},
    ],
    ids=["plain", "fast", "compact"],
)
def test_the_store_is_that_of_the_command_line(
    settings, network, files, image_folder, tmp_path, capsys
):
    main(["label", "--images.root", str(image_folder), "--out", str(tmp_path / "a"), *files,
          *words(SMALL | settings)])  # fmt: skip
    assert capsys.readouterr().out
    store = fkd.label(image_folder, network, out=tmp_path / "b", input_size=32, **SMALL | settings)
    assert capsys.readouterr().out == ""
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert store.root_hash == fkd.LabelStore.open(tmp_path / "a").root_hash
    named = fkd.TeacherConfig(
        "test_efficientnet",
        **{
            name.removeprefix("--teacher."): value
            for name, value in zip(files[4::2], files[5::2], strict=True)
        },
        input_size=32,
    )
    again = fkd.label(image_folder, named, out=tmp_path / "c", **SMALL | settings)
    assert again.root_hash == store.root_hash
    main(["verify", str(tmp_path / "b"), "--images.root", str(image_folder), *files])
    assert fkd.verify(tmp_path / "a", image_folder, network).labels.top1_agreement == 1.0


def test_several_teachers_are_averaged(network, image_folder, tmp_path):
    one = fkd.TeacherModule(network, name="one", input_size=32, weight=2.0)
    two = fkd.TeacherModule(Pooled(), **OWN)
    store = fkd.label(image_folder, [one, two], out=tmp_path / "a", **CHEAP)
    assert [t["weight"] for t in store.config["teachers"]] == [2.0, 1.0]
    again = fkd.label(
        image_folder, [one, two], out=tmp_path / "b", teacher_weights=[4, 2], codec="ms:3", **CHEAP
    )
    stored, other = (s.read(np.arange(15)).label for s in (store, again))
    np.testing.assert_array_equal(stored.ids, other.ids)
    np.testing.assert_array_equal(stored.values, other.values)
    assert fkd.verify(store, image_folder, [one, two]).labels.num == 64
    apart = fkd.label(image_folder, [one, two], out=tmp_path / "c", separate=True, **CHEAP)
    assert apart.codec.name == "ms:3*2"


@pytest.mark.parametrize("kind", ["ImageFolder", "source", "config", "map-style"])
def test_images_are_whatever_a_data_set_takes(kind, own, image_folder, tmp_path):
    folder = ImageFolder(image_folder)
    images = {
        "ImageFolder": folder,
        "source": fkd.open_source(fkd.ImagesConfig(root=str(image_folder))),
        "config": fkd.ImagesConfig(root=str(image_folder)),
        "map-style": ArraySource(folder),
    }[kind]
    store = fkd.label(images, Pooled(), out=tmp_path / "s", **OWN, **CHEAP)
    assert store.num_images == 15
    if kind != "map-style":  # whose keys are positions
        assert store.root_hash == own.root_hash


def test_the_identity_holds_the_weights(own, image_folder, tmp_path):
    (teacher,) = own.config["teachers"]
    assert (teacher["name"], teacher["mean"]) == ("Pooled", [0.5, 0.4, 0.3])
    assert own.class_names == ("ant", "bee", "cat")
    before = files_of(own.path)
    again = fkd.label(image_folder, Pooled(), out=own.path, **SMALL, **OWN, accuracy_images=0)
    assert again.root_hash == own.root_hash
    with pytest.raises(StoreMismatch, match=r"teachers\.0\.weights_sha256"):
        fkd.label(image_folder, Pooled(seed=1), out=own.path, **CHEAP, **OWN)
    with pytest.raises(StoreMismatch, match=r"teachers\.0\.name"):
        fkd.label(image_folder, Pooled(), out=own.path, **CHEAP, **OWN, name="other")
    assert files_of(own.path) == before


def test_a_stopped_call_resumes(own, image_folder, tmp_path):
    class Stop(Progress):
        def advanced(self, num_crops):
            if len(list((tmp_path / "s" / "commits").iterdir())) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fkd.label(image_folder, Pooled(), out=tmp_path / "s", progress=Stop(), **CHEAP, **OWN)
    done = []

    class Listen(Progress):
        def started(self, start):
            done.append(start.num_crops_done)

    resumed = fkd.label(
        image_folder, Pooled(), out=tmp_path / "s", progress=Listen(), **CHEAP, **OWN
    )
    assert done == [2 * 4 * 3]
    assert resumed.root_hash == own.root_hash


def test_shards_make_a_part(image_folder, tmp_path):
    part = fkd.label(image_folder, Pooled(), out=tmp_path / "s", shards="1/2", **CHEAP, **OWN)
    assert len(part.committed) == 2
    assert part.root_hash is None


def test_progress_prints_as_the_command_line_does(image_folder, tmp_path, capsys):
    store = fkd.label(image_folder, Pooled(), out=tmp_path / "s", progress=True, **CHEAP, **OWN)
    out = capsys.readouterr().out
    assert "teacher   Pooled, 24 pixels, bilinear" in out
    assert "45 of 45 crops" in out
    assert f"root hash {store.root_hash}" in out


def test_a_poor_teacher_is_warned_of(image_folder, tmp_path):
    with pytest.warns(UserWarning, match="the teacher is right on") as caught:
        fkd.label(image_folder, Wrong(), out=tmp_path / "s", **SMALL, **OWN)
    assert caught[0].filename == __file__


class Wrong(nn.Module):
    """The class of each color is that of the next one."""

    def forward(self, pixels):
        return 9 * pixels.mean((2, 3)).roll(1, 1)


def test_unreadable_images_are_warned_of(make_images, tmp_path):
    root = make_images(tmp_path / "images")
    (root / "bee" / "2.png").write_bytes(b"no image")
    options = CHEAP | OWN | {"max_unreadable": 1}
    with pytest.warns(UserWarning, match="1 images have no labels: .*2.png"):
        store = fkd.label(root, Pooled(), out=tmp_path / "s", **options)
    assert store.num_images == 15


def test_features_are_stored(image_folder, tmp_path):
    store = fkd.label(image_folder, Pooled(), out=tmp_path / "s", output="features", **CHEAP, **OWN)
    assert (store.is_of_classes, store.num_classes, store.codec.name) == (False, 3, "logits")
    assert fkd.verify(store, image_folder, Pooled()).num == 64


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (Pooled(), {"num_corps": 3}, "no setting num_corps; did you mean num_crops"),
        (Pooled(), {"zzz": 3}, "use one of accuracy_images"),
        (Pooled(), {}, "does not say what its input is"),
        (Pooled(), OWN | {"num_crops": 0}, "num_crops must be at least 1"),
        (Pooled(), OWN | {"codec": "ms:9"}, "ms:9"),
        (Pooled(), OWN | {"class_names": ["a"]}, "1 names are given"),
        (Pooled(), OWN | {"separate": True}, "several teachers"),
        (Pooled(), OWN | {"teacher_weights": [1, 2]}, "2 weights are given for 1 teachers"),
        (Pooled(), OWN | {"output": "features", "classes": "dataset"}, "are no classes"),
        ([Pooled(), Pooled()], OWN | {"codec": "logits", "separate": True}, "several teachers"),
        ([], {}, "at least one teacher"),
        (lambda x: x, {}, "a function is no teacher"),
        (nn.Linear, OWN, "a type is no teacher"),
        ([Pooled(), 3], OWN, "a int is no teacher"),
        ("test_resnet", {"preprocessing": {}}, "is of modules"),
        ("no_such_network", {}, "unknown model"),
        (fkd.TeacherModule(Pooled()), OWN, "has settings of its own"),
    ],
)  # fmt: skip
def test_errors_are_those_of_the_package(model, options, message, image_folder, tmp_path):
    with pytest.raises(FKDError, match=message):
        fkd.label(image_folder, model, **{"out": tmp_path / "s"} | options)
    assert not (tmp_path / "s").exists()


class TestVerify:
    def test_bytes_alone(self, own):
        assert fkd.verify(own) is None

    def test_images(self, own, image_folder):
        assert fkd.verify(own, ImageFolder(image_folder)) is None

    def test_the_teacher_needs_no_settings(self, own, image_folder):
        report = fkd.verify(own, image_folder, Pooled(), spot_checks=10)
        assert (report.labels.num, report.labels.top1_agreement) == (10, 1.0)

    def test_other_weights(self, own, image_folder):
        with pytest.raises(StoreMismatch, match="weights_sha256"):
            fkd.verify(own, image_folder, Pooled(seed=1))

    def test_other_preprocessing(self, own, image_folder):
        with pytest.raises(StoreMismatch, match="mean"):
            fkd.verify(own, image_folder, Pooled(), mean=(0.1, 0.1, 0.1))

    def test_other_images(self, own, make_images, tmp_path):
        other = make_images(tmp_path / "other")
        Image.new("RGB", (30, 30)).save(other / "ant" / "0.png")
        with pytest.raises(CropMismatch, match=r"ant/0\.png"):
            fkd.verify(own, other)

    def test_damage(self, image_folder, tmp_path):
        store = fkd.label(image_folder, Pooled(), out=tmp_path / "s", **CHEAP, **OWN)
        shard = next((tmp_path / "s" / "shards").iterdir())
        shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
        with pytest.raises(DamagedStore, match="--repair"):
            fkd.verify(tmp_path / "s")
        assert store.path == tmp_path / "s"

    def test_a_teacher_without_images(self, own):
        with pytest.raises(ConfigError, match="needs the images"):
            fkd.verify(own, model=Pooled())


def test_the_examples_of_the_document_run(image_folder, tmp_path, monkeypatch):
    """As printed, but for the size of crops, batches and stores."""
    text = (Path(__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "train").symlink_to(image_folder)
    monkeypatch.chdir(tmp_path)
    names = {"MyNetwork": Pooled, "student": nn.Sequential(nn.Flatten(), nn.Linear(768, 3))}
    small = {
        "num_crops=100": "num_crops=4",
        '"ms:5"': '"ms:3"',
        "input_size=224": "input_size=24",
        "mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)": "mean=[0.5] * 3, std=[0.2] * 3",
        "crops_per_image=4": "crops_per_image=2, size=16",
        "batch_size=64": "batch_size=4",
        "range(25)": "range(2)",
    }
    code = "\n".join(blocks)
    for printed, replacement in small.items():
        assert code.count(printed) == 1, printed
        code = code.replace(printed, replacement)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the weights are random
        exec(compile(code, "docs/python.md", "exec"), names)
    assert names["report"].labels.top1_agreement == 1.0


def test_nothing_warns_where_all_is_well(image_folder, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fkd.label(image_folder, Pooled(), out=tmp_path / "s", **CHEAP, **OWN)
