"""Runs on some of the images or some of the shards of a store: the same crops, labels and classes.

Every method that reads a store, in every form that it may have, on folders and tar archives.
"""

import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from fkd.crops.sampling import CropConfig
from fkd.data.maps import MapCropSource
from fkd.data.multicrop import MultiCropDataset
from fkd.data.sources import ImagesConfig, load, open_source
from fkd.data.subset import labeled_part
from fkd.engine.logging import Progress
from fkd.errors import ConfigError, CropMismatch, MissingLabel, RunError, StoreMismatch
from fkd.labeling.config import LabelConfig
from fkd.labeling.run import label
from fkd.methods import SslConfig
from fkd.models.teacher import TeacherConfig
from fkd.store import LabelStore, convert_store
from fkd.training.config import StudentConfig, TrainConfig
from fkd.training.run import train
from tests.data.kinds import place

KINDS = ("folder", "tar")
FORMS = {"plain": "fkd", "compact": "fkd", "mealv2": "mealv2-fkd", "map": "relabel"}
FORMS |= {"features": "fkd-ssl"}
"""The stores below, and a method that reads each."""


@pytest.fixture(scope="module")
def roots(image_folder, tmp_path_factory) -> dict[str, Path]:
    """15 images of three classes, in a folder and in two archives."""
    tar = place("tar", image_folder, tmp_path_factory.mktemp("tar") / "archives")
    return {"folder": image_folder, "tar": tar}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> TeacherConfig:
    """A network with random weights, asked for its features."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "t.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), path)
    return TeacherConfig("test_resnet", output="features", checkpoint=str(path), input_size=32)


@pytest.fixture(scope="module")
def stores(roots, teacher, make_store, make_maps, tmp_path_factory) -> dict[tuple[str, str], Path]:
    """Of each kind of source a store of each form, with shards of 4 images."""
    made = {}
    for kind, root in roots.items():
        folder = tmp_path_factory.mktemp(kind)
        source = open_source(ImagesConfig(root=str(root)))
        plain = make_store(folder / "plain", source)
        made[kind, "plain"] = made[kind, "mealv2"] = plain.path
        made[kind, "compact"] = convert_store(plain.path, folder / "compact").after.path
        made[kind, "map"] = make_maps(folder / "map", source).path
        settings = LabelConfig(
            images=ImagesConfig(root=str(root)),
            out=str(folder / "features"),
            teacher=teacher,
            num_crops=6,
            images_per_shard=4,
        )
        made[kind, "features"] = label(settings).store.path
    return made


def every_second(root: Path, tmp_path: Path) -> str:
    """A file that names 7 of the images, none of the first class."""
    source = open_source(ImagesConfig(root=str(root)))
    names = [source.key(i) for i in range(len(source)) if source.label(i) > 0][::-1][:7]
    (tmp_path / "subset.txt").write_bytes(b"\n".join(names))
    return str(tmp_path / "subset.txt")


def some_shards(store: Path, out: Path, numbers=(1, 3)) -> Path:
    """A copy with these shards, as a user fetches them."""
    for name in ("shards", "commits"):
        (out / name).mkdir(parents=True)
        for number in numbers:
            (file,) = (store / name).glob(f"{number:05d}.*")
            shutil.copy(file, out / name)
    for name in ("config.json", "manifest.json"):
        shutil.copy(store / name, out)
    return out


def fewer_images(root: Path, out: Path) -> Path:
    """A copy that lacks a third of the images, and the second class whole."""
    shutil.copytree(root, out)
    for file in sorted(out.glob("*/0.png")):
        file.unlink()
    shutil.rmtree(out / "bee")
    return out


class Remarks(Progress):
    """Remembers what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def remark(self, text: str) -> None:
        self.said.append(text)


def run_of(out: Path, method: str, store: Path, **images) -> TrainConfig:
    return TrainConfig(
        out=str(out),
        images=ImagesConfig(**images),
        store=str(store),
        method=method,
        student=StudentConfig(name="test_resnet", input_size=32),
        epochs=2,
        crops_per_image=1,
        batch_size=4,
        ssl=SslConfig(loss="bank", bank_size=8) if method == "fkd-ssl" else SslConfig(),
        num_workers=0,
        device="cpu",
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_method_trains_on_what_is_there(kind, form, roots, stores, tmp_path):
    """Seven named images of all shards, and the seven of two of four shards: 3 steps in 2 epochs
    of 7 images at 4 crops a step, the last images of an epoch going into the next."""
    listener = Remarks()
    config = run_of(tmp_path / "a", FORMS[form], stores[kind, form], root=str(roots[kind]))
    whole_steps = train(replace(config, out=str(tmp_path / "w"))).num_steps
    named = replace(config.images, subset=every_second(roots[kind], tmp_path))
    half = train(replace(config, images=named), listener)
    assert "7 of 15 images" in " ".join(listener.said)
    part = some_shards(stores[kind, form], tmp_path / "part")
    with pytest.raises(MissingLabel, match=r"has 2 of its 4 shards, .*00000.*--partial"):
        train(replace(config, store=str(part), out=str(tmp_path / "b")))
    listener = Remarks()
    some = train(replace(config, store=str(part), partial=True, out=str(tmp_path / "b")), listener)
    assert "7 of 15 images" in " ".join(listener.said)
    assert "2 of 4 shards" in " ".join(listener.said)
    assert half.num_steps == some.num_steps < whole_steps


def items_of(dataset, source, keys) -> dict[bytes, tuple]:
    """What a data set gives of each of these images."""
    dataset.set_epoch(1)
    place = {source.key(i): i for i in range(len(source))}
    return {key: dataset[place[key]] for key in keys}


@pytest.mark.parametrize("form", ["plain", "compact", "features"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_has_the_same_crops_and_labels_in_every_part(kind, form, roots, stores, tmp_path):
    store, root = LabelStore.open(stores[kind, form]), ImagesConfig(root=str(roots[kind]))
    options = {"crops_per_image": 3, "size": 16}
    whole = MultiCropDataset(root, store, **options)
    named = replace(root, subset=every_second(roots[kind], tmp_path))
    part = LabelStore.open(some_shards(store.path, tmp_path / "part"), partial=True)
    cases = [
        (named, store, open_source(named)),
        (root, part, labeled_part(open_source(root), part)),
        (named, part, labeled_part(open_source(named), part)),
    ]
    for images, labels, source in cases:
        dataset = MultiCropDataset(images, labels, **options)
        assert len(dataset) == len(source) < 15
        keys = [source.key(i) for i in range(len(source))]
        expected = items_of(whole, open_source(root), keys)
        for key, (crops, targets) in items_of(dataset, source, keys).items():
            assert torch.equal(crops, expected[key][0])
            if form == "features":
                assert torch.equal(targets.values, expected[key][1].values)
            else:
                assert torch.equal(targets.dense(), expected[key][1].dense())
                assert torch.equal(targets.labels, expected[key][1].labels)


@pytest.mark.parametrize("kind", KINDS)
def test_a_crop_has_the_label_of_its_map_in_every_part(kind, roots, stores, tmp_path):
    path, config = stores[kind, "map"], ImagesConfig(root=str(roots[kind]))
    whole, store = open_source(config), LabelStore.open(path)
    expected = MapCropSource(whole, store, CropConfig()).select(np.arange(15), 2, 2)
    labels = expected.targets.dense().reshape(15, 2, -1)
    partial = LabelStore.open(some_shards(path, tmp_path / "part"), partial=True)
    named = open_source(replace(config, subset=every_second(roots[kind], tmp_path)))
    for images, labeled in ((named, store), (labeled_part(whole, partial), partial)):
        selected = MapCropSource(images, labeled, CropConfig()).select(np.arange(7), 2, 2)
        place = {whole.key(i): i for i in range(15)}
        places = [place[images.key(i)] for i in range(7)]
        assert torch.equal(selected.targets.dense().reshape(7, 2, -1), labels[places])
        for j, i in enumerate(places):
            records = selected.records(j, load(images, j))
            np.testing.assert_array_equal(records.box, expected.records(i, load(whole, i)).box)


def test_missing_images_are_an_error_that_names_them_and_the_way_out(
    roots, stores, image_folder, tmp_path
):
    fewer = fewer_images(image_folder, tmp_path / "fewer")
    config = run_of(tmp_path / "run", "fkd", stores["folder", "plain"], root=str(fewer))
    with pytest.raises(StoreMismatch) as caught:
        train(config)
    said = str(caught.value)
    assert "7 labeled but not there (first: ant/0.png, bee/0.png, bee/1.png, ...)" in said
    assert "--allow_missing_images" in said
    assert "--images.subset FILE" in said
    listener = Remarks()
    train(replace(config, allow_missing_images=True), listener)
    (remark,) = listener.said[:1]
    assert remark.startswith("7 of the 15 labeled images of ")
    assert remark.endswith("are left out: ant/0.png, bee/0.png, bee/1.png, ...")
    # The images that are there are a part of what the run is.
    (fewer / "ant" / "1.png").unlink()
    with pytest.raises(RunError, match=r"data\.images\.num_images was 8, now 7"):
        train(replace(config, allow_missing_images=True))


def test_the_same_from_python(stores, image_folder, tmp_path):
    fewer = str(fewer_images(image_folder, tmp_path / "fewer"))
    store = LabelStore.open(stores["folder", "plain"])
    with pytest.raises(StoreMismatch, match="allow_missing_images=True"):
        MultiCropDataset(fewer, store, crops_per_image=2, size=16)
    with pytest.warns(UserWarning, match="7 of the 15 labeled images"):
        dataset = MultiCropDataset(
            fewer, store, crops_per_image=2, size=16, allow_missing_images=True
        )
    assert len(dataset) == 8
    # Of classes ant and cat, whose ids are those of the store.
    assert {int(dataset[i][1].labels[0]) for i in range(8)} == {0, 2}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MultiCropDataset(str(image_folder), store, size=16, allow_missing_images=True)


def test_extra_and_changed_images_stay_errors(stores, image_folder, tmp_path):
    fewer = fewer_images(image_folder, tmp_path / "fewer")
    store = LabelStore.open(stores["folder", "plain"])
    options = {"crops_per_image": 2, "size": 16, "allow_missing_images": True}
    shutil.copy(fewer / "cat" / "1.png", fewer / "cat" / "9.png")
    with pytest.raises(StoreMismatch, match=r"1 there but not labeled \(first: cat/9.png\); use"):
        MultiCropDataset(str(fewer), store, **options)
    (fewer / "cat" / "9.png").replace(fewer / "cat" / "2.png")
    with pytest.warns(UserWarning, match="7 of the 15"):
        dataset = MultiCropDataset(str(fewer), store, **options)
    with pytest.raises(CropMismatch, match=r"cat/2.png is not the file that was labeled"):
        dataset[5]
    part = LabelStore.open(some_shards(store.path, tmp_path / "part"), partial=True)
    shutil.copytree(image_folder, tmp_path / "more")
    shutil.copy(fewer / "cat" / "1.png", tmp_path / "more" / "bee" / "1b.png")
    with pytest.raises(StoreMismatch, match=r"1 there but not labeled \(first: bee/1b.png\)"):
        MultiCropDataset(str(tmp_path / "more"), part, size=16, crops_per_image=2)
    shutil.copy(fewer / "cat" / "1.png", tmp_path / "more" / "ant" / "1b.png")
    with pytest.raises(StoreMismatch, match=r"9 of .* shards that are not there, which hold 8"):
        MultiCropDataset(str(tmp_path / "more"), part, size=16, crops_per_image=2)


def test_a_run_without_a_store_refuses_what_is_said_of_one(tmp_path, image_folder):
    for name in ("partial", "allow_missing_images"):
        with pytest.raises(ConfigError, match=f"{name}.*without a store"):
            TrainConfig(
                out=str(tmp_path / "run"),
                images=ImagesConfig(root=str(image_folder)),
                student=StudentConfig(name="test_resnet"),
                method="vanilla",
                **{name: True},
            )


def test_the_store_of_a_subset_is_that_of_a_folder_of_these_images(image_folder, teacher, tmp_path):
    """Its identity names what was labeled, and nothing of how it was chosen."""
    fewer = fewer_images(image_folder, tmp_path / "fewer")
    source = open_source(ImagesConfig(root=str(fewer)))
    (tmp_path / "subset.txt").write_bytes(b"\r\n".join(source.key(i) for i in range(len(source))))
    named = ImagesConfig(root=str(image_folder), subset=str(tmp_path / "subset.txt"))

    def made(name, images, **options) -> LabelStore:
        out = str(tmp_path / name)
        settings = LabelConfig(images=images, out=out, teacher=teacher, num_crops=2, **options)
        return label(settings).store

    store = made("subset", named, max_images=8)
    assert store.root_hash == made("folder", ImagesConfig(root=str(fewer))).root_hash
    assert "max_images" not in store.config
    assert made("spread", named, max_images=5).config["max_images"] == 5
    assert len(MultiCropDataset(named, store, crops_per_image=2, size=16)) == 8
    with pytest.raises(StoreMismatch, match=r"7 there but not labeled.*images.subset names them"):
        MultiCropDataset(str(image_folder), store, crops_per_image=2, size=16)


def test_labels_of_another_place_are_refused_with_what_joins_them(stores, image_folder):
    with pytest.raises(StoreMismatch, match=r"15 renamed .*found by the keys.* in the same format"):
        MultiCropDataset(
            str(image_folder), LabelStore.open(stores["tar", "plain"]), crops_per_image=2, size=16
        )


def test_a_labeled_part_without_manifest_trains(stores, image_folder, tmp_path):
    """What `fkd label --shards` has written; a run on it is one on these shards."""
    part = some_shards(stores["folder", "plain"], tmp_path / "part")
    (part / "manifest.json").unlink()
    config = run_of(tmp_path / "run", "fkd", part, root=str(image_folder))
    config = replace(config, partial=True)
    listener = Remarks()
    assert train(config, listener).num_steps == 4
    assert "7 of 15 images" in " ".join(listener.said)
    assert train(config).already_finished
    for name in ("shards", "commits"):
        (file,) = (stores["folder", "plain"] / name).glob("00002.*")
        shutil.copy(file, part / name)
    with pytest.raises(RunError, match=r"data\.images\.num_images was 7, now 11"):
        train(config)


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_of_some_of_the_named_images(kind, roots, teacher, tmp_path):
    """Labeled with `--images.subset FILE --max_images 4`: the same file fits it, another does not.

    Nor does one of as many images among which the 4 are: some of its images may have been meant.
    """
    named = ImagesConfig(root=str(roots[kind]), subset=every_second(roots[kind], tmp_path))
    source = open_source(named)
    settings = LabelConfig(
        images=named,
        out=str(tmp_path / "store"),
        teacher=replace(teacher, output="logits"),
        num_crops=2,
        max_images=4,
        images_per_shard=3,
    )
    store = label(settings).store
    assert store.num_images == 4 < len(source) == 7
    part = labeled_part(source, store)
    assert [part.key(i) for i in range(4)] == store.keys()
    assert len(MultiCropDataset(named, store, crops_per_image=2, size=16)) == 4
    assert train(run_of(tmp_path / "run", "fkd", store.path, **vars(named))).num_steps > 0
    fetched = LabelStore.open(some_shards(store.path, tmp_path / "part", (1,)), partial=True)
    assert len(MultiCropDataset(named, fetched, crops_per_image=2, size=16)) == 1
    other = Path(named.subset).read_bytes().splitlines()[1:]
    everything = open_source(ImagesConfig(root=str(roots[kind])))
    other.append(next(key for key in map(everything.key, range(15)) if key not in other))
    (tmp_path / "other.txt").write_bytes(b"\n".join(other))
    with pytest.raises(StoreMismatch, match=r"there but not labeled"):
        MultiCropDataset(replace(named, subset=str(tmp_path / "other.txt")), store, size=16)
