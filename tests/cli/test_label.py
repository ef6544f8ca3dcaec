"""`fkd label`, `fkd plan` and `fkd verify` as a user types them."""

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from fkd.cli import main
from fkd.store import LabelStore


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("teacher") / "model.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=7).state_dict(), file)
    return file


@pytest.fixture
def flags(checkpoint, image_folder, tmp_path):
    """The options of a labeling command; the values can be overridden."""

    def make(**options) -> list[str]:
        settings = {
            "teacher.name": "test_resnet",
            "teacher.checkpoint": checkpoint,
            "teacher.input_size": 32,
            "images.root": image_folder,
            "num_crops": 4,
            "codec": "ms:3",
            "out": tmp_path / "store",
        } | {name.replace("__", "."): value for name, value in options.items()}
        return [part for name, value in settings.items() for part in (f"--{name}", str(value))]

    return make


@pytest.fixture
def store(flags, tmp_path, capsys) -> Path:
    main(["label", *flags()])
    capsys.readouterr()
    return tmp_path / "store"


@pytest.fixture
def teacher_flags(checkpoint):
    return [
        *("--teacher.name", "test_resnet"),
        *("--teacher.checkpoint", str(checkpoint)),
        *("--teacher.input_size", "32"),
    ]


def fails(capsys, *arguments: str) -> str:
    """The one line that a failing command prints; its exit code must be 2."""
    with pytest.raises(SystemExit) as exit_:
        main(list(map(str, arguments)))
    assert exit_.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("fkd: error: ")
    assert "\n" not in error
    return error


def test_the_license_of_the_teacher_is_printed(flags, tmp_path, capsys):
    main(["label", *flags(teacher__name="test_resnet.r160_in1k")])
    assert "license   apache-2.0, of the weights of test_resnet.r160" in capsys.readouterr().out
    main(["inspect", str(tmp_path / "store")])
    assert "apache-2.0" in capsys.readouterr().out
    main(["label", *flags(out=tmp_path / "other")])  # the file of nobody knows whose weights
    assert "\nlicense" not in capsys.readouterr().out


def test_label_says_what_it_does_and_what_came_out(flags, tmp_path, capsys):
    main(["label", *flags()])
    printed = capsys.readouterr().out
    found = LabelStore.open(tmp_path / "store")
    for expected in (
        "teacher   test_resnet, 32 pixels, bilinear, weights ",
        "classes   7: 0, 1, 2, 3, ...",
        "accuracy  not measured: 3 of 3 classes are unknown to the teacher",
        "or first train a teacher on these (fkd train --method vanilla)",
        "images    15 in ",
        "4 crops per image, ms:3 u16",
        "60 of 60 crops, ",
        "checked   64 labels compared: top-1 agreement 100.00%",
        f"{found.num_bytes:,} bytes ({found.num_bytes / 60:.1f} per crop)",
        f"root hash {found.root_hash}",
    ):
        assert expected in printed
    main(["label", *flags()])
    again = capsys.readouterr().out
    assert "60 labeled earlier" in again
    assert f"root hash {found.root_hash}" in again


def test_fast_numerics_say_what_they_do_to_labels_before_labeling(flags, capsys):
    main(["label", *flags(numerics="fast")])
    printed = capsys.readouterr().out
    told = printed.index(
        "numerics  fast (bf16) against exact: 60 labels compared: top-1 agreement "
    )
    assert told < printed.index("          fast runs at ") < printed.index("crops/s")


def test_a_teacher_whose_batch_norms_stay_is_named(flags, capsys, monkeypatch):
    main(["label", *flags()])
    assert "batch norms" not in capsys.readouterr().out
    monkeypatch.setattr("fkd.models.single_teacher.fold_batch_norms", lambda model, example: 0)
    main(["label", *flags(out=flags()[-1] + "-2")])
    assert "none of the 15 batch norms of test_resnet can be folded" in capsys.readouterr().out


def test_plan_says_bytes_crops_and_time_and_writes_nothing(flags, tmp_path, capsys):
    main(["plan", *flags()])
    printed = capsys.readouterr().out
    assert "images    15 x 4 crops = 60 crops of 7 classes, ms:3" in printed
    assert "per crop) in 1 shards" in printed
    assert "crops/s, measured here" in printed
    assert not (tmp_path / "store").exists()


def test_settings_can_come_from_a_recipe(flags, tmp_path, image_folder, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "teacher_augment:\n  color_jitter: [0.4, 0.4, 0.4, 0.1]\n"
        "crops:\n  scale: [0.2, 0.9]\n  seed: 7\ncodec: mr:2\n"
    )
    main(["label", "--config", str(recipe), *flags(crops__seed=8)])
    crops = LabelStore.open(tmp_path / "store").config
    assert crops["crops"]["scale"] == [0.2, 0.9]
    assert crops["crops"]["seed"] == 8
    assert set(crops["extras"]) == {"jitter", "jitter_order"}


def test_verify_of_a_sound_store_says_so(store, teacher_flags, image_folder, capsys):
    main(["verify", str(store)])
    assert "is whole" in capsys.readouterr().out
    main(["verify", str(store), "--images.root", str(image_folder)])
    printed = capsys.readouterr().out
    assert "images    15 files are those that were labeled" in printed
    assert "canaries  4 of 4 crops have exactly the teacher's pixels" in printed
    main(["verify", str(store), "--images.root", str(image_folder), *teacher_flags])
    assert "checked   64 labels compared: top-1 agreement 100.00%" in capsys.readouterr().out


def test_verify_names_another_teacher(store, teacher_flags, image_folder, tmp_path, capsys):
    images = ["--images.root", str(image_folder)]
    error = fails(capsys, "verify", store, *images, *teacher_flags[:-1], "48")
    assert "teachers.0.input_size: 32 in the store, 48 now" in error
    torch.manual_seed(1)
    other = tmp_path / "other.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=7).state_dict(), other)
    error = fails(capsys, "verify", store, *images, *teacher_flags, "--teacher.checkpoint", other)
    assert "teachers.0.weights_sha256" in error
    error = fails(capsys, "verify", store, *teacher_flags)
    assert "images.root: the teacher needs the images" in error


def test_verify_measures_what_another_decoder_changes(
    store, teacher_flags, image_folder, capsys, monkeypatch
):
    from fkd.data import decode

    monkeypatch.setitem(decode.DECODER, "version", "0.1")
    main(["verify", str(store), "--images.root", str(image_folder), *teacher_flags])
    printed = capsys.readouterr().out
    assert "warning   images are decoded otherwise" in printed
    assert '"0.1" now' in printed
    assert "mean difference 0.00 gray levels (other libraries)" in printed


def test_verify_names_damage_and_repair_mends_it(store, flags, capsys):
    before = {p: p.read_bytes() for p in store.rglob("*") if p.is_file()}
    shard = store / "shards" / "00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-9] ^= 4
    shard.write_bytes(data)
    assert "shards/00000.safetensors" in fails(capsys, "verify", store)
    main(["verify", str(store), "--repair", "true"])
    assert "moved; run the command that made the store again" in capsys.readouterr().out
    main(["label", *flags()])
    main(["verify", str(store)])
    assert {p: p.read_bytes() for p in before} == before
    main(["verify", str(store), "--repair", "true"])
    assert "nothing to do" in capsys.readouterr().out


def test_verify_names_changed_missing_and_renamed_images(store, image_folder, tmp_path, capsys):
    images = Path(shutil.copytree(image_folder, tmp_path / "train"))
    check = ["verify", str(store), "--images.root", str(images)]
    (images / "cat/2.png").rename(images / "cat/new.png")
    assert "1 renamed (first: cat/2.png is now cat/new.png)" in fails(capsys, *check)
    (images / "cat/new.png").unlink()
    assert "1 labeled but not there (first: cat/2.png)" in fails(capsys, *check)
    shutil.copy(images / "cat/1.png", images / "cat/2.png")
    assert "1 of 15 image files are not those" in fails(capsys, *check)


def test_label_refuses_a_store_of_other_settings(store, flags, capsys):
    error = fails(capsys, "label", *flags(codec="mr:3", num_crops=5))
    assert 'codec: "ms:3" in the store, "mr:3" now' in error
    assert "num_crops: 4 in the store, 5 now" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images__root": "/nowhere/at/all"}, "images.root: /nowhere/at/all does not exist"),
        ({"codec": "ms:8"}, "ms:8 keeps 8 classes but there are only 7"),
        ({"codec": "best"}, "codec 'best' is unknown"),
        ({"teacher__name": "test_resnt"}, "did you mean test_resnet"),
        ({"teacher__checkpoint": "/nowhere.pth"}, "/nowhere.pth"),
        ({"device": "cuda:77"}, "device: 'cuda:77' cannot be used"),
        ({"min_accuracy": 0.9}, "min_accuracy: the accuracy cannot be measured"),
        ({"classes": "dataset"}, "3 of 3 classes are unknown to the teacher"),
    ],
)
def test_impossible_options_end_with_one_line(flags, tmp_path, capsys, options, message):
    assert message in fails(capsys, "label", *flags(**options))
    assert not (tmp_path / "store").exists()


def test_unreadable_images_are_reported_and_can_be_allowed(flags, image_folder, tmp_path, capsys):
    images = Path(shutil.copytree(image_folder, tmp_path / "train"))
    (images / "ant/0.png").write_bytes(b"")
    options = {"images__root": images, "images_per_shard": 2}
    error = fails(capsys, "label", *flags(**options))
    assert "1 of 15 images cannot be labeled: " in error
    main(["label", *flags(**options, max_unreadable=1)])
    printed = capsys.readouterr().out
    assert "52 labeled earlier" in printed
    assert "unreadable " in printed
    assert "ant/0.png is empty" in printed


def test_verify_of_an_unfinished_store_says_how_to_go_on(store, capsys):
    (store / "manifest.json").unlink()
    error = fails(capsys, "verify", store)
    assert "is not finished: 1 of 1 shards are there" in error
    assert "fkd label" in error


def test_verify_of_something_else_is_an_error(tmp_path, store, capsys):
    assert "does not exist" in fails(capsys, "verify", tmp_path / "nothing")
    assert "not a label store" in fails(capsys, "verify", tmp_path)
    manifest = json.loads((store / "manifest.json").read_text())
    (store / "manifest.json").write_text(json.dumps(manifest))
    assert "manifest.json" in fails(capsys, "verify", store)


def test_verify_leaves_files_of_others_alone_and_advises_repair_only_where_it_helps(store, capsys):
    (store / ".DS_Store").write_bytes(b"x")
    (store / "README.md").write_text("x")
    assert main(["verify", str(store)]) in (None, 0)
    printed = capsys.readouterr().out
    assert "note      not part of the store, and left alone: .DS_Store, README.md" in printed
    (store / "notes.txt").write_text("x")
    error = fails(capsys, "verify", store)
    assert "notes.txt does not belong to the store; move it away" in error
    assert "--repair" not in error
