"""The lists of ImageNet that timm brings."""

import pytest
from timm.data import ImageNetInfo, RealLabelsImagenet

from fkd.data.imagenet import real_labels, subset_ids, validation_number, wordnet_ids


def test_classes_are_those_of_timm_in_sorted_order():
    assert list(wordnet_ids()) == ImageNetInfo("imagenet-1k").label_names()
    assert list(wordnet_ids()) == sorted(wordnet_ids())
    assert len(set(wordnet_ids())) == 1000


@pytest.mark.parametrize("subset", ["imagenet-a", "imagenet-r"])
def test_subsets_have_200_of_the_classes(subset):
    assert len(set(subset_ids(subset)) & set(wordnet_ids())) == len(subset_ids(subset)) == 200


def test_46_837_images_have_real_labels():
    labels = real_labels()
    assert (len(labels), sum(map(bool, labels))) == (50_000, 46_837)
    assert labels[1] == (970, 795)
    names = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 50_001)]
    theirs = RealLabelsImagenet(names).real_labels
    assert all(tuple(theirs[name]) == labels[validation_number(name) - 1] for name in names)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("ILSVRC2012_val_00000001.JPEG", 1),
        ("val/n01440764/ILSVRC2012_val_00050000.JPEG", 50_000),
        ("ilsvrc2012_val_00000007.png", 7),
        ("ILSVRC2012_val_00000293_n01440764.JPEG", 293),  # as Hugging Face calls them
        ("ILSVRC2012_val_00050001.JPEG", None),
        ("ILSVRC2012_val_00000000.JPEG", None),
        ("ILSVRC2012_val_000000293.JPEG", None),
        ("n01440764_10026.JPEG", None),  # a training image
        ("ILSVRC2012_test_00000001.JPEG", None),
        ("00000001.JPEG", None),
    ],
)
def test_numbers_are_read_from_the_names_of_validation_images_only(name, number):
    assert validation_number(name) == number
