"""docs/images.md: its table of places and keys, its lists and its example, as they are printed."""

import os
import re
import shutil
from pathlib import Path
from typing import get_args

import pytest
from datasets import DatasetDict

from fkd.data.sources import ImagesConfig, SourceFormat, as_source, open_source
from tests.data.kinds import as_dataset, files_below, pack

PAGE = Path(__file__).parents[1] / "docs" / "images.md"


@pytest.fixture(scope="module")
def places(make_images, tmp_path_factory) -> Path:
    """A folder with every place that docs/images.md names, under the names that it has there."""
    root = tmp_path_factory.mktemp("places")
    photos = make_images(root / "photos", classes=("cat", "dog"), per_class=2)
    for file in photos.glob("*/*.png"):
        file.rename(file.with_name(f"{int(file.stem) + 1}.jpg"))
    shutil.copytree(photos / "cat", root / "loose")
    files = files_below(photos)
    for name in ("shards", "tables"):
        (root / name).mkdir()
    pack(root / "shards" / "train-000000.tar", files)
    dataset = as_dataset(files)
    dataset.to_parquet(root / "tables" / "train-00000-of-00001.parquet")
    DatasetDict(train=dataset).save_to_disk(root / "saved")
    lists = PAGE.read_text("utf-8").partition("## Lists")[2].partition("* Paths")[0]
    lines = [line.split()[0] for line in re.findall(r"^    ([^\s].*)$", lists, re.MULTILINE)]
    header = lines.index("path,label")
    numbers = re.findall(r"^    (\w+/\d.jpg \d)", lists, re.MULTILINE)
    (photos / "list.txt").write_text("\n".join(numbers))
    (photos / "list.csv").write_text("\n".join(lines[header:]))
    return root


def test_images_lie_where_their_page_says_under_the_keys_that_it_says(places):
    table = PAGE.read_text("utf-8").partition("## What a key is for")[0]
    rows = re.findall(r"^\| `(.+?)` \| .+? \| `(\w+)` \| `(.+?)` \|$", table, re.MULTILINE)
    assert {format_ for _, format_, _ in rows} == {*get_args(SourceFormat)} - {
        *("auto", "classes", "cifar10", "cifar100")
    }
    for root, format_, key in rows:
        for chosen in (format_, "auto"):
            source = open_source(ImagesConfig(root=str(places / root), format=chosen))
            keys = {os.fsdecode(source.key(i)) for i in range(len(source))}
            assert key in keys, (root, chosen, keys)
            assert (source.class_names is None) == (format_ == "flat")


def test_the_example_of_the_page_of_images_runs(places, make_store, monkeypatch, capsys):
    monkeypatch.chdir(places)
    make_store(places / "labels", as_source("photos"), class_names=("cat", "dog"))
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert capsys.readouterr().out == "b'cat/1.jpg'\nb'dog/2.jpg'\n"
    assert len(names["data"]) == 4
