"""Released maps, as the authors' code saves them; and files that only pretend to be some."""

import io
import os
import pickle
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fkd.cli import main
from fkd.data.sources import ImagesConfig, open_source
from fkd.errors import ConfigError, CropMismatch, FormatError, MissingLabel, StoreMismatch
from fkd.labeling.foreign.files import read_label_file
from fkd.labeling.foreign.maps import ForeignMap, read_map
from fkd.labeling.foreign.run import ImportConfig, import_labels
from fkd.labels.codecs import TopKLogits
from fkd.store import LabelStore, verify_store
from fkd.training.config import StudentConfig, TrainConfig
from fkd.training.run import train

NAMES = ["wasp", "cat", "ant", "dog", "bee", "elk", "fox", "owl"]


def released(seed, truth=None, k=5, grid=(3, 2)) -> torch.Tensor:
    """(2, K, gh, gw): scores, largest first, and class ids as floats."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(3, 3, (len(NAMES), *grid))
    if truth is not None:
        logits[truth] += 20
    ids = np.argsort(-logits, axis=0)[:k]
    scores = np.take_along_axis(logits, ids, axis=0)
    return torch.from_numpy(np.stack([scores, ids.astype(float)])).float()


@pytest.fixture
def config(tmp_path, image_folder, image_source) -> ImportConfig:
    """Maps of the 15 images, saved in both of torch's formats."""
    names = tmp_path / "names.txt"
    names.write_text("\n".join(NAMES))
    for i in range(15):
        key = os.fsdecode(image_source.key(i))
        path = tmp_path / "maps" / os.path.splitext(key)[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        truth = NAMES.index(key.split("/")[0])
        torch.save(released(i, truth), f"{path}.pt", _use_new_zipfile_serialization=i % 2 == 0)
    return ImportConfig(
        images=ImagesConfig(root=str(image_folder)),
        format="relabel",
        labels=str(tmp_path / "maps"),
        classes=str(names),
        out=str(tmp_path / "store"),
        value_dtype="f32",
        images_per_shard=4,
    )


def test_maps_become_a_store(config, image_source):
    result = import_labels(config)
    assert (result.store.num_images, result.store.grid) == (15, (3, 2))
    assert (result.num_known, result.num_right) == (15, 15)
    assert verify_store(config.out) == []
    store = LabelStore.open(config.out)
    assert store.grid == (3, 2)
    assert store.codec == TopKLogits(5)
    assert store.class_names == tuple(NAMES)
    assert store.config["origin"] == "imported"
    for i in range(15):
        entry = store[image_source.key(i)]
        expected = released(i, NAMES.index(os.fsdecode(entry.key).split("/")[0]))
        for y in range(3):
            for x in range(2):
                assert entry.label.ids[2 * y + x].tolist() == expected[1, :, y, x].tolist()
                assert entry.label.values[2 * y + x].tolist() == expected[0, :, y, x].tolist()


def test_an_import_goes_on_to_the_same_bytes(config, tmp_path, files_of, stop_after):
    import_labels(config)
    again = replace(config, out=str(tmp_path / "again"))

    stop_after(9, lambda progress: import_labels(again, progress))
    counted = []
    import_labels(again, counted.append)
    assert len(counted) == 7
    assert files_of(again.out) == files_of(config.out)
    with pytest.raises(StoreMismatch, match="value_dtype"):
        import_labels(replace(config, value_dtype="f16"))


def test_an_image_that_was_replaced_between_two_starts_is_named(config, tmp_path, stop_after):
    root = Path(shutil.copytree(config.images.root, tmp_path / "photos"))
    again = replace(config, images=ImagesConfig(root=str(root)), out=str(tmp_path / "again"))

    stop_after(9, lambda progress: import_labels(again, progress))
    first = sorted(root.rglob("*.png"))[0]
    original = first.read_bytes()
    Image.new("RGB", (30, 30)).save(first)
    with pytest.raises(CropMismatch, match=rf"images were changed .*{first.name}"):
        import_labels(again)
    first.write_bytes(original)
    import_labels(again)


def test_students_train_from_imported_maps(config, tmp_path):
    import_labels(replace(config, value_dtype="f16"))
    result = train(
        TrainConfig(
            out=str(tmp_path / "run"),
            method="relabel",
            images=config.images,
            store=config.out,
            student=StudentConfig(name="test_vit", input_size=32),
            crops_per_image=1,
            epochs=1,
            batch_size=8,
            num_workers=0,
            device="cpu",
        )
    )
    assert np.isfinite(result.loss)


def test_images_that_would_share_a_map_are_refused(config, make_images, tmp_path):
    root = make_images(tmp_path / "images")
    (root / "bee/2.jpg").write_bytes((root / "bee/2.png").read_bytes())
    with pytest.raises(ConfigError, match=r"bee/2\.jpg and .*bee/2\.png would share .*bee/2\.pt"):
        import_labels(replace(config, images=ImagesConfig(root=str(root))))


def test_missing_maps_are_counted_and_named(config, tmp_path):
    for stem in ("ant/0", "cat/4"):
        (tmp_path / "maps" / f"{stem}.pt").unlink()
    with pytest.raises(MissingLabel, match=r"2 of 15 images have no labels.*ant/0\.pt.*cat/4\.pt"):
        import_labels(config)
    with pytest.raises(ConfigError, match="nowhere is no folder"):
        import_labels(replace(config, labels="nowhere"))
    assert not (tmp_path / "store").exists()


def test_a_wrong_order_of_classes_shows(config, tmp_path, capsys):
    turned = tmp_path / "turned.txt"
    turned.write_text("\n".join(NAMES[::-1]))
    main(
        [
            *("import-labels", "--format=relabel"),
            f"--labels={config.labels}",
            f"--images.root={config.images.root}",
            f"--classes={turned}",
            f"--out={config.out}",
        ]
    )
    printed = capsys.readouterr().out
    assert "the labels of 0.0% of 15 images have their folder" in printed
    assert "15 label maps of 3 x 2 cells" in printed


def test_maps_of_another_kind_are_refused(config, tmp_path):
    torch.save(released(0, grid=(2, 3)), tmp_path / "maps/bee/1.pt")
    with pytest.raises(
        FormatError, match=r"bee/1\.pt has another number of crops, classes or cells"
    ):
        import_labels(config)


def test_imagenet_is_known_by_name(config):
    assert "imagenet" in ImportConfig.__dataclass_fields__["classes"].default
    import_labels(replace(config, classes="imagenet"))
    assert LabelStore.open(config.out).num_classes == 1000


def read(path: str, num_classes: int, value_dtype: str = "f32") -> ForeignMap:
    return read_map(read_label_file(path), path, num_classes, value_dtype)


def saved(value, tmp_path, **options) -> str:
    torch.save(value, tmp_path / "map.pt", **options)
    return str(tmp_path / "map.pt")


@pytest.mark.parametrize("legacy", [False, True])
def test_cells_come_largest_logit_first(tmp_path, legacy):
    shuffled = released(0)[:, [3, 0, 4, 1, 2]].half()
    path = saved(shuffled, tmp_path, _use_new_zipfile_serialization=not legacy)
    found = read(path, len(NAMES))
    assert found.grid == (3, 2)
    assert (np.diff(found.label.values, axis=1) <= 0).all()
    assert found.label.ids[0].tolist() == released(0)[1, :, 0, 0].tolist()


class Evil:
    """What a pickle may do to those who load it."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def changed(at, value):
    tensor = released(0)
    tensor[at] = value
    return tensor


HUGE = torch.zeros(1).expand(2, 5, 10**6, 10**6)
NO_MAPS = {
    "list": ([released(0)], "something else"),
    "integers": (released(0).long(), "something else"),
    "sparse": (released(0).to_sparse(), "it needs"),
    "parameter": (torch.nn.Parameter(released(0)), "it needs"),
    "one axis less": (released(0)[0], "shape"),
    "three planes": (torch.zeros(3, 5, 3, 2), "shape"),
    "no classes": (torch.zeros(2, 0, 3, 2), "shape"),
    "no cells": (torch.zeros(2, 5, 0, 2), "0 x 2 cells"),
    "huge view": (HUGE, "larger than its numbers"),
    "half an id": (changed((1, 0, 0, 0), 2.5), "no whole number from 0 to 7"),
    "id too high": (changed((1, 2, 1, 1), 8.0), "no whole number"),
    "negative id": (changed((1, 2, 1, 1), -1.0), "no whole number"),
    "id NaN": (changed((1, 2, 1, 1), torch.nan), "no whole number"),
    "score NaN": (changed((0, 2, 1, 1), torch.nan), "not finite"),
    "score infinite": (changed((0, 2, 1, 1), torch.inf), "not finite"),
    "a class twice": (changed((1, slice(None), 0, 0), 3.0), "names a class twice"),
}


@pytest.mark.parametrize(("value", "reason"), NO_MAPS.values(), ids=NO_MAPS)
def test_other_tensors_are_refused(tmp_path, value, reason):
    with pytest.raises(FormatError, match=rf"map\.pt.*{reason}"):
        read(saved(value, tmp_path), len(NAMES))


def test_large_logits_need_f32(tmp_path):
    path = saved(changed((0, 0, 0, 0), 1e5), tmp_path)
    read(path, len(NAMES), "f32")
    with pytest.raises(FormatError, match="too large for f16"):
        read(path, len(NAMES), "f16")


@pytest.mark.parametrize("legacy", [False, True])
def test_hostile_pickles_are_not_run(tmp_path, legacy):
    mark = tmp_path / "run"
    path = saved(Evil(mark), tmp_path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(FormatError, match="which no label file does"):
        read(path, len(NAMES))
    (tmp_path / "map.pt").write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(FormatError, match="which no label file does"):
        read(path, len(NAMES))
    assert not mark.exists()


def test_damaged_files_are_refused(tmp_path):
    for legacy in (False, True):
        path = saved(released(0), tmp_path, _use_new_zipfile_serialization=not legacy)
        whole = (tmp_path / "map.pt").read_bytes()
        for length in range(0, len(whole) - 1, 61):
            (tmp_path / "map.pt").write_bytes(whole[:length])
            with pytest.raises(FormatError, match=r"map\.pt"):
                read(path, len(NAMES))


def test_files_too_large_are_refused_before_they_are_unpacked(tmp_path):
    path = saved(torch.zeros(2, 5, 1400, 1400), tmp_path)
    with pytest.raises(FormatError, match=r"it has 78,4\d\d,\d\d\d bytes"):
        read(path, len(NAMES))
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(path) as plain,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in plain.namelist():
            small.writestr(name, plain.read(name))
    (tmp_path / "map.pt").write_bytes(packed.getvalue())
    assert len(packed.getvalue()) < 1 << 20
    with pytest.raises(FormatError, match="packed in it is larger"):
        read(path, len(NAMES))
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(FormatError, match="not a regular file"):
        read(str(tmp_path / "pipe.pt"), len(NAMES))


def test_settings_that_cannot_work_are_refused(config):
    for options, message in [
        ({"out": ""}, "out: give the folder"),
        ({"num_workers": 0}, "num_workers must be at least 1"),
        ({"value_dtype": "u16"}, "label maps hold logits; use f16 or f32"),
        ({"value_dtype": "f8"}, "value_dtype: 'f8'"),
        ({"format": "tar"}, "format: 'tar'"),
    ]:
        with pytest.raises(ConfigError, match=message):
            replace(config, **options)


def test_canaries_and_teachers_are_unknown(config):
    import_labels(config)
    store, source = LabelStore.open(config.out), open_source(config.images)
    assert store.canaries == ()
    main(["verify", config.out, "--images.root", source.root])


@pytest.mark.drill("G4", "a flipped bit of a released label map", failing="silent")
def test_a_flipped_bit_of_a_map_is_found(tmp_path, drill):
    """In an archive of torch, whose own reader compares no checksum."""
    path = saved(released(0), tmp_path)
    whole = (tmp_path / "map.pt").read_bytes()
    expected = read(path, len(NAMES))
    draw, tries = np.random.default_rng(0), drill.times(200, goal=20_000)
    for _ in range(tries):
        changed = bytearray(whole)
        changed[int(draw.integers(len(whole)))] ^= 1 << int(draw.integers(8))
        (tmp_path / "map.pt").write_bytes(changed)
        try:
            found = read(path, len(NAMES))
        except FormatError:
            continue
        assert np.array_equal(found.label.ids, expected.label.ids)
        assert np.array_equal(found.label.values, expected.label.values)
    drill.tried(tries)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_that_ask_for_much_are_refused(tmp_path, legacy):
    bomb = b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."
    path = saved(released(0), tmp_path, _use_new_zipfile_serialization=not legacy)
    whole = (tmp_path / "map.pt").read_bytes()
    if legacy:  # after the magic number, the version and the machine comes the pickle of the map
        third = whole.index(b"little_endian")
        start = whole.index(b"\x80\x02", third)
        (tmp_path / "map.pt").write_bytes(whole[:start] + bomb)
    else:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, bomb if name.endswith("data.pkl") else data)
    with pytest.raises(FormatError, match=r"it needs .builtins\.bytearray."):
        read(path, len(NAMES))
