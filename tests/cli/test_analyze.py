"""`fkd analyze distance` and `labels`: what they print and write."""

import json

import pytest
from PIL import Image

from fkd.cli import main


@pytest.fixture
def inputs(image_folder, label_store, map_store) -> list[str]:
    return [
        f"--images.root={image_folder}",
        f"--store={label_store.path}",
        f"--maps={map_store.path}",
        "--sample.images_per_class=2",
    ]


@pytest.mark.parametrize("name", ["distance", "labels"])
def test_figures_numbers_and_lines(name, inputs, tmp_path, capsys):
    main(["analyze", name, *inputs, f"--out={tmp_path}/new", "--sample.seed=7"])
    printed = capsys.readouterr().out
    numbers = json.loads((tmp_path / "new" / f"{name}.json").read_text("utf-8"))
    assert numbers["settings"]["seed"] == 7
    assert numbers["settings"]["num_images"] == 6
    assert "each of 6 images" in printed
    assert "seed 7" in printed
    for note in numbers["notes"]:
        assert f"note      {note}" in printed
    assert str(tmp_path.parent) not in json.dumps(numbers)  # nor any other path of this machine
    with Image.open(tmp_path / "new" / f"{name}.png") as figure:
        assert min(figure.size) > 100
    assert (tmp_path / "new" / f"{name}.svg").read_text("utf-8").startswith("<?xml")


def test_the_matrix_is_printed(inputs, tmp_path, capsys):
    main(["analyze", "distance", *inputs, f"--out={tmp_path}"])
    printed = capsys.readouterr().out
    numbers = json.loads((tmp_path / "distance.json").read_text("utf-8"))
    for pair in numbers["distances"]:
        if pair["mean"] is None:
            assert pair["a"] == "truth"
        else:
            assert f"{pair['mean']:.3f}" in printed


def test_a_model_of_other_classes_is_one_line(inputs, tmp_path, capsys):
    model = f"--models.net={{name: test_resnet, checkpoint: {tmp_path}/none.pth}}"
    with pytest.raises(SystemExit) as stop:
        main(["analyze", "distance", *inputs, f"--out={tmp_path}/new", model])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("fkd: error: models.net: ")
    assert not (tmp_path / "new").exists()
