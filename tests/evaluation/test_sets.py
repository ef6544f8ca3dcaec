"""Sets as users write them, and what is said of those that cannot be evaluated."""

from pathlib import Path

import pytest

from fkd.data.imagenet import subset_ids, wordnet_ids
from fkd.data.sources import ImagesConfig, open_source
from fkd.errors import ConfigError
from fkd.evaluation.sets import SetConfig, describe_subset, find_truth, parse_set
from tests.evaluation.fixed import write_shades

WNIDS = list(wordnet_ids())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("photos/val", {"root": "photos/val"}),
        (Path("photos/val"), {"root": "photos/val"}),
        ("real:imagenet/val", {"root": "imagenet/val", "kind": "real"}),
        ("imagenet-a:a", {"root": "a", "kind": "imagenet-a"}),
        ("imagenet-r:/data/r", {"root": "/data/r", "kind": "imagenet-r"}),
        ("cifar10:data", {"root": "data", "format": "cifar10", "split": "test"}),
        ("cifar100:data", {"root": "data", "format": "cifar100", "split": "test"}),
        ("./real:photos", {"root": "./real:photos"}),
        ("other:photos", {"root": "other:photos"}),
        ({"root": "photos", "split": "val"}, {"root": "photos", "split": "val"}),
        ({"root": "v", "kind": "real", "classes": "by_name"}, None),
        ({"root": "real:v", "split": "val"}, {"root": "v", "kind": "real", "split": "val"}),
        ({"root": "cifar10:v", "split": "train"}, {"root": "v", "format": "cifar10"}),
        (ImagesConfig(root="photos", split="val"), {"root": "photos", "split": "val"}),
        (SetConfig(root="v", kind="real"), {"root": "v", "kind": "real"}),
    ],
)
def test_what_a_set_may_be(value, expected):
    assert parse_set("x", value) == SetConfig(**(value if expected is None else expected))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, r"sets\.x: 3 is no set; give a path"),
        (None, "None is no set"),
        ("", "'' is no set"),
        (["a"], r"\['a'\] is no set"),
        (True, "True is no set"),
        ("real:", r"sets\.x: real: has no path; give one, e\.g\. real:data"),
        ({}, r"sets\.x: root is missing"),
        ({"split": "val"}, "root is missing"),
        ({"root": "v", "roots": "w"}, "no setting 'roots'; did you mean root"),
        ({"root": "v", 7: "w"}, "no setting 7; use root, format"),
        ({"root": "v", "kind": "v2"}, "sets.x: kind: 'v2' is none of classes, real"),
        ({"root": "v", "format": "zip"}, r"sets\.x: images\.format: unknown format"),
        ({"root": 7}, r"sets\.x: 7 is no set; give a path"),
        ({"root": "real:"}, r"sets\.x: real: has no path"),
        ({"root": "v", "split": 3}, r"images\.split is a name"),
        ({"root": "v", "image_column": 3}, "image_column is a name, got 3"),
    ],
)
def test_what_a_set_may_not_be(value, message):
    with pytest.raises(ConfigError, match=message):
        parse_set("x", value)


def truth_of(root, kind, names=WNIDS, **settings):
    source = open_source(ImagesConfig(root=str(root), **settings))
    return find_truth(source, kind, names, "resnet50")


def test_real_needs_the_names_of_the_validation_images(tmp_path):
    write_shades(tmp_path / "train", ["n01440764/n01440764_10026.JPEG"])
    with pytest.raises(ConfigError, match=r"none of .*n01440764_10026\.JPEG\) is called like ILSV"):
        truth_of(tmp_path / "train", "real")


def test_an_image_that_is_there_twice_is_refused(tmp_path):
    name = "ILSVRC2012_val_00000002.JPEG"
    write_shades(tmp_path / "v", [f"a/{name}", f"b/{name}"])
    with pytest.raises(ConfigError, match=rf"a/{name} and .*b/{name} are the same image; remove"):
        truth_of(tmp_path / "v", "real")


def test_only_images_without_real_labels_are_refused(tmp_path):
    write_shades(tmp_path / "v", ["ILSVRC2012_val_00000001.JPEG"])
    with pytest.raises(ConfigError, match=r"none of the 1 images of .* has ReaL labels"):
        truth_of(tmp_path / "v", "real")


@pytest.mark.parametrize("kind", ["imagenet-a", "imagenet-r"])
def test_images_of_other_classes_are_refused(tmp_path, kind):
    outside = next(w for w in WNIDS if w not in subset_ids(kind))
    write_shades(tmp_path / "images", [f"{outside}/0.png", "cat/1.png"])
    with pytest.raises(ConfigError, match="none of the classes of"):
        truth_of(tmp_path / "images", kind)


@pytest.mark.parametrize("kind", ["imagenet-a", "imagenet-r"])
def test_a_folder_that_looks_like_one_of_the_sets_is_remarked(tmp_path, kind):
    write_shades(tmp_path / "images", [f"{name}/0.png" for name in subset_ids(kind)])
    source = open_source(ImagesConfig(root=str(tmp_path / "images")))
    said = describe_subset(source, "classes")
    assert f"give {kind}:{tmp_path}/images" in said
    assert describe_subset(source, kind) is None


def test_what_is_right_is_part_of_the_identity(tmp_path):
    write_shades(tmp_path / "a", ["n01440764/0.png", "n01443537/1.png"])
    source = open_source(ImagesConfig(root=str(tmp_path / "a")))
    truths = [
        find_truth(source, "classes", names, "x")
        for names in (WNIDS, WNIDS[::-1], WNIDS[:2], WNIDS)
    ]
    assert len({truth.sha256 for truth in truths}) == 3
    assert truths[0].sha256 == truths[3].sha256
