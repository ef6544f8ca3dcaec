"""`fkd analyze teachers`, `coverage` and `duplicates` as a user calls them."""

import json

import pytest

from fkd.cli import main
from tests.cli.commands import command, make_files


@pytest.fixture(scope="module")
def files(make_images, make_store, tmp_path_factory):
    return make_files(tmp_path_factory.mktemp("files"), make_images, make_store)


def run(words, capsys) -> str:
    main(words)
    return capsys.readouterr().out


def refused(words, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_teachers_and_stores_by_names_of_the_users(files, tmp_path, capsys):
    words = command("analyze teachers", files, tmp_path / "out")
    printed = run(
        ["analyze", "teachers", *words, f"--stores.mine={files.store}", "--sort=entropy"], capsys
    )
    assert "2 of each of 4 images, labels of 2 classes" in printed  # of ImageNet: ant and bee
    found = json.loads((tmp_path / "out" / "teachers.json").read_text("utf-8"))
    assert sorted(row["name"] for row in found["rows"]) == ["mine", "net"]
    entropies = [row["labels"]["entropy"] for row in found["rows"]]
    assert entropies == sorted(entropies)
    assert [row[i] for i, row in enumerate(found["top1_agreement"])] == [1.0, 1.0]
    assert str(tmp_path) not in json.dumps(found)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        f"teachers.{kind}" for kind in ("svg", "png", "json")
    }


def test_a_name_that_is_no_model(files, tmp_path, capsys):
    words = ["analyze", "teachers", f"--images={files.images}", f"--out={tmp_path}"]
    assert "models.a: " in refused([*words, "--models.a=nothing_of_that_name"], capsys)
    assert "needs --models.NAME" in refused(words, capsys)
    assert "sort" in refused([*words, "--models.a=resnet18", "--sort=size"], capsys)
    said = refused([*words, "--models.a={name: resnet18, temprature: 2}"], capsys)
    assert "models: Option 'temprature' is not accepted" in said


@pytest.mark.parametrize("option", ["models", "stores"])
@pytest.mark.parametrize("value", ["resnet18", "[resnet18,resnet34]"])
def test_models_and_stores_need_names(option, value, capsys):
    said = refused(["analyze", "teachers", f"--{option}", value], capsys)
    assert f"--{option}: each has a name of yours, such as --{option}.mine {value}" in said


def test_coverage_with_and_without_a_store(files, tmp_path, capsys):
    printed = run(command_words("analyze coverage", files, tmp_path), capsys)
    assert "8 epochs in 5 passes, 1 of them with m = 4" in printed
    assert "groups of the same content: 0" in printed
    assert (tmp_path / "duplicates.json").exists()
    words = ["analyze", "coverage", "--num_crops=50", "--epochs=20", f"--out={tmp_path / 'b'}"]
    printed = run([*words, "--order=iid", "--schedule.warmup_epochs=5"], capsys)
    assert "order iid" in printed
    assert not (tmp_path / "b" / "duplicates.json").exists()
    found = json.loads((tmp_path / "b" / "coverage.json").read_text("utf-8"))
    assert found["num_images"] * 20 == sum(n * c for n, c in enumerate(found["crops_by_uses"]))
    assert "needs a --store, or --num_crops" in refused(["analyze", "coverage"], capsys)


def test_a_part_of_the_images_is_followed(files, tmp_path, capsys):
    words = command_words("analyze coverage", files, tmp_path)
    printed = run([*words, "--num_images=2", "--duplicates=false"], capsys)
    assert "2 of 6 images were followed" in printed
    assert not (tmp_path / "duplicates.json").exists()


def test_label_maps_have_no_crops_to_use(map_store, tmp_path, capsys):
    words = ["analyze", "coverage", f"--store={map_store.path}", f"--out={tmp_path / 'out'}"]
    assert "holds label maps" in refused(words, capsys)


def test_duplicates_of_a_store_alone(files, tmp_path, capsys):
    words = ["analyze", "duplicates", f"--store={files.store}", f"--out={tmp_path}"]
    assert "only the checksums of files are compared" in run(words, capsys)
    found = json.loads((tmp_path / "duplicates.json").read_text("utf-8"))
    assert (found["num_images"], found["unreadable"]) == ({"images": 6}, [])
    assert "needs --images.root, or a --store" in refused(["analyze", "duplicates"], capsys)


def test_a_leak_is_a_warning(files, tmp_path, capsys):
    words = command_words("analyze duplicates", files, tmp_path)
    printed = run([*words, f"--val.root={files.images}", "--top=2"], capsys)
    assert "warning   duplicates in both images and val: 6" in printed
    assert "the first 2 of 6 duplicates" in printed


def command_words(verb, files, out) -> list[str]:
    return [*verb.split(), *command(verb, files, out)]
