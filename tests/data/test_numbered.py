"""Class folders called by numbers: the id is the number, never the position in sorted names."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fkd.data.joining import class_ids_among
from fkd.data.numbered import names_by_number, numbers_of
from fkd.data.sources import ImagesConfig, open_source, remarks_of
from fkd.data.subset import spread
from fkd.errors import ConfigError
from fkd.models.classes import imagenet_classes

WNIDS = imagenet_classes(1000)


def write(root: Path, names, per_class=1) -> Path:
    """Class folders of tiny images; the red of each is the number of its folder, modulo 256."""
    for name in names:
        (root / name).mkdir(parents=True)
        digits = "".join(character for character in name if character.isdigit()) or "0"
        for i in range(per_class):
            Image.new("RGB", (2, 2), (int(digits) % 256, 0, 0)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def v2(tmp_path_factory) -> Path:
    """ImageNetV2 with one image of each class."""
    root = tmp_path_factory.mktemp("v2") / "imagenetv2-matched-frequency-format-val"
    return write(root, [str(i) for i in range(1000)])


def open_images(root, **settings):
    return open_source(ImagesConfig(root=str(root), **settings))


def numbers_in(source) -> list[int]:
    """The number of the folder of each image."""
    return [int(source.key(i).split(b"/")[0]) for i in range(len(source))]


def test_a_thousand_numbers_are_ids_by_themselves(v2):
    source = open_images(v2)
    labels = [source.label(i) for i in range(len(source))]
    assert labels == numbers_in(source)
    assert labels != sorted(labels)  # the keys are in bytewise order: 0, 1, 10, 100, 101, ...
    assert source.class_names == [str(i) for i in range(1000)]
    (remark,) = remarks_of(source)
    assert "taken for class ids (0 to 999); images.classes by_name" in remark


@pytest.mark.parametrize("known", [WNIDS[::-1], WNIDS[::7], ["n00000001", "cat", *WNIDS]])
def test_and_found_where_a_model_has_others_besides_or_in_another_order(v2, known):
    """A head of 21,841 classes, or a student of a part of ImageNet."""
    ids = class_ids_among(open_images(v2), known)
    assert [known[id_] if id_ >= 0 else None for id_ in ids] == [
        wnid if wnid in known else None for wnid in WNIDS
    ]


def test_by_name_they_are_names_in_the_order_of_text(v2):
    source = open_images(v2, classes="by_name")
    assert source.class_names[:4] == ["0", "1", "10", "100"]
    assert remarks_of(source) == []
    assert class_ids_among(source, WNIDS).max() == -1


def test_ids_are_those_of_the_sorted_wordnet_ids(v2):
    source = open_images(v2)
    assert class_ids_among(source, WNIDS).tolist() == list(range(1000))


@pytest.mark.parametrize(
    "known",
    [
        [str(i) for i in range(1000)],
        sorted(str(i) for i in range(1000)),  # of a student of the folders, by_name
        [f"{i:03d}" for i in reversed(range(1000))],
    ],
)
def test_classes_that_are_numbers_themselves_are_found_at_any_position(v2, known):
    source = open_images(v2)
    ids = class_ids_among(source, known)
    assert [int(known[id_]) for id_ in ids] == list(range(1000))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["0", "2", "10"], [0, 2, 10]),  # gaps
        (["000", "002", "010"], [0, 2, 10]),  # leading zeros
        (["2", "10", "0001"], [1, 2, 10]),
    ],
)
def test_on_request_with_gaps_and_leading_zeros(tmp_path, names, expected):
    write(tmp_path / "images", names)
    source = open_images(tmp_path / "images", classes="by_number")
    labels = [source.label(i) for i in range(len(source))]
    assert sorted(labels) == expected
    assert labels == numbers_in(source)
    assert source.class_names == [str(i) for i in range(11)]
    assert class_ids_among(source, WNIDS)[labels].tolist() == labels
    assert remarks_of(source) == []


@pytest.mark.parametrize(
    "names",
    [
        [str(i) for i in range(10)],
        [str(i) for i in range(1, 1001)],
        [*(str(i) for i in range(999)), "1000"],
        [*(str(i) for i in range(999)), "cat"],
        [*(str(i) for i in range(1000)), "1000"],
        [*(str(i) for i in range(999)), "0998"],
    ],
)
def test_other_numbers_stay_names_unless_asked_for(tmp_path, names):
    source = open_images(write(tmp_path / "images", names))
    assert source.class_names == sorted(names)
    assert remarks_of(source) == []


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0", "cat"], "class 'cat' of .* is no number; rename .* or use by_name"),
        (["0", "-1"], "class '-1' of .* is no number"),
        (["1", "1_0"], "class '1_0' of .* is no number"),
        (["1", "\u0663"], "class '\u0663' of .* is no number"),  # a digit, for int() alone
        (["1", "01"], "'01' and '1' of .* are the same number; join"),
        (["0", "20231105"], "has label 20231105, more than the classes of 2 images can be"),
        (["0", "9" * 40], "is no number"),
    ],
)
def test_what_cannot_be_ids_is_refused(tmp_path, names, message):
    write(tmp_path / "images", names)
    with pytest.raises(ConfigError, match=message):
        open_images(tmp_path / "images", classes="by_number")


def test_images_without_classes_have_no_numbers(tmp_path):
    write(tmp_path / "images" / "x", ["0"])
    flat = tmp_path / "images" / "x" / "0"
    with pytest.raises(ConfigError, match=r"by_number: .* has no classes"):
        open_images(flat, classes="by_number")
    with pytest.raises(ConfigError, match="flat, or label_column null, takes"):
        open_images(flat, classes="by_number", format="flat")
    with pytest.raises(ConfigError, match=r"images\.classes: 'numbers' is none of auto, by_name"):
        open_images(flat, classes="numbers")


def test_a_root_of_several_sets_names_one_of_them(v2):
    """Not 1,000 ids of three classes."""
    write(v2.parent / "imagenetv2-top-images-format-val", ["0", "1"])
    with pytest.raises(ConfigError, match=rf"lie deeper .* give {v2}, or"):
        open_images(v2.parent)


def test_a_part_and_a_copy_in_another_process_keep_the_ids(v2):
    part = pickle.loads(pickle.dumps(spread(open_images(v2), 7)))
    labels = [part.label(i) for i in range(7)]
    assert labels == numbers_in(part)
    assert class_ids_among(part, WNIDS)[labels].tolist() == labels
    assert part.read(3)[:4] == b"\x89PNG"
    assert part.name(3).endswith(".png")


def write_parquet(root: Path, labels, names=None) -> Path:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet as pq

    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG")
    images = [{"bytes": buffer.getvalue(), "path": None}] * len(labels)
    table = pa.table({"image": images, "label": labels})
    if names is not None:
        import json

        info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    root.mkdir()
    pq.write_table(table, root / "data.parquet")
    return root


def test_numbers_in_parquet_files(tmp_path):
    """As Hugging Face has ImageNet: labels are ids, and names are words that no model uses."""
    words = [f"thing {i}" for i in range(1000)]
    named = open_images(write_parquet(tmp_path / "named", [3, 999, 20], words), classes="by_number")
    assert class_ids_among(named, WNIDS)[[named.label(i) for i in range(3)]].tolist() == [
        3,
        999,
        20,
    ]
    text = open_images(write_parquet(tmp_path / "text", ["3", "10", "20"]), classes="by_number")
    assert [text.label(i) for i in range(3)] == [3, 10, 20]
    plain = write_parquet(tmp_path / "plain", list(range(1000))[::-1])
    assert open_images(plain).classes_are_numbers
    assert not hasattr(open_images(plain, classes="by_name"), "classes_are_numbers")
    words_only = write_parquet(tmp_path / "words", ["ant", "bee"])
    with pytest.raises(ConfigError, match=r"class 'ant' of .* is no number"):
        open_images(words_only, classes="by_number")


def test_names_by_number_keep_what_does_not_exist():
    assert names_by_number(4, ["ant", "bee"]) == ["ant", "bee", "2", "3"]
    assert names_by_number(3, ["10", "1"]) == ["0", "1", "2"]
    assert numbers_of([]) == []
    assert np.array_equal(numbers_of(["7", "08"]), [7, 8])
