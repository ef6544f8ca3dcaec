"""How classes of validation images differ from those of a run."""

from fkd.data.folder import FolderSource
from fkd.data.joining import describe_differing_classes


def source(names, labels):
    keys = [b"%d" % i for i in range(len(labels))]
    return FolderSource("val", keys, labels, names)


def test_equal_classes_are_not_worth_a_word():
    assert describe_differing_classes(source(["a", "b"], [0, 1]), ["a", "b"], ["a", "b"]) is None
    assert describe_differing_classes(source(["b", "a"], [0, 1]), ["a", "b"], ["a", "b"]) is None


def test_classes_that_only_the_student_has_are_not_missed():
    assert describe_differing_classes(source(["a"], [0]), ["a"], ["a", "b", "c"]) is None


def test_missing_renamed_and_extra_classes_and_images_without():
    val = source(["a", "x", "y"], [0, 1, 1, 2, -1])
    said = describe_differing_classes(val, ["a", "b"], ["a", "b"])
    assert said == (
        "val: val has no images of 1 classes (b), and 3 images of 2 classes that the student does "
        "not know (x, y), which are left out, and 1 images without a class, which are left out"
    )
