"""Annotation files: what is read, and how everything that cannot be right is named."""

import json

import pytest

from fkd.errors import ConfigError
from fkd.transfer.coco import Category, read_coco
from fkd.transfer.smoke import write_coco


def read(paths, masks=True, **options):
    return read_coco("annotations", *paths, masks=masks, **options)


def test_labels_follow_the_ids_of_categories_and_lead_back_to_them(write_annotations):
    coco = read(write_annotations())
    assert list(coco.categories) == [Category(3, "car"), Category(90, "brush")]
    (image,) = coco.images
    (instance,) = image.instances
    assert instance.label == 2
    assert coco.categories[instance.label - 1].id == 90
    assert instance.box == (2.0, 2.0, 12.0, 12.0)
    assert (instance.area, instance.is_crowd) == (100.0, False)
    assert (image.id, image.height, image.width) == (7, 16, 20)


def test_a_folder_like_that_of_coco_has_crowds_and_images_without_objects(tmp_path):
    root = write_coco(tmp_path / "coco")
    coco = read((str(root / "annotations/instances_train2017.json"), str(root / "train2017")))
    assert len(coco.images) == 8
    assert coco.with_objects() == [0, 1, 2, 4, 5, 6, 7]
    assert (coco.num_crowds, coco.num_instances, coco.num_degenerate) == (1, 14, 0)
    assert [category.id for category in coco.categories] == [1, 18, 90]


@pytest.mark.parametrize("masks", [True, False])
def test_masks_are_kept_only_where_they_are_wanted(write_annotations, masks):
    (instance,) = read(write_annotations(), masks=masks).images[0].instances
    assert (instance.segmentation is not None) == masks


@pytest.mark.parametrize(
    "bbox",
    [[2, 2, 0, 5], [2, 2, 5, 0], [2, 2, -3, 5], [25, 2, 5, 5], [2, -9, 5, 5], [19.999, 2, 5, 5]],
)
def test_boxes_without_an_area_are_counted_and_left_out(write_annotations, bbox):
    def change(document):
        document["annotations"].append({**document["annotations"][0], "id": 6, "bbox": bbox})

    coco = read(write_annotations(change))
    assert (coco.num_degenerate, coco.num_instances) == (1, 1)


def test_only_a_crowd_is_no_object(write_annotations):
    def change(document):
        run_lengths = {"size": [16, 20], "counts": [0, 20, 300]}
        document["annotations"][0] |= {"iscrowd": 1, "segmentation": run_lengths}

    coco = read(write_annotations(change))
    assert (coco.num_crowds, coco.with_objects()) == (1, [])


# What is set in an entry, and what the message says. None takes a member away.
WRONG = {
    ("images", "id"): [None, "7", 1.0, True],
    ("images", "file_name"): [None, "", 3, "a\0b"],
    ("images", "width"): [None, 0, -3, "20", 20.5],
    ("images", "height"): [None, 0],
    ("categories", "id"): [None, "x"],
    ("categories", "name"): [None, "", 4],
    ("annotations", "image_id"): [None, "7"],
    ("annotations", "category_id"): [None, [90]],
    ("annotations", "bbox"): [None, [], [1, 2, 3], [1, 2, 3, "4"], [1, 2, 3, float("nan")], {}],
}


@pytest.mark.parametrize(
    ("part", "member", "value"),
    [(part, member, value) for (part, member), values in WRONG.items() for value in values],
)
def test_a_wrong_member_is_named_with_file_and_entry(write_annotations, part, member, value):
    def change(document):
        if value is None:
            del document[part][0][member]
        else:
            document[part][0][member] = value

    paths = write_annotations(change)
    with pytest.raises(ConfigError) as caught:
        read(paths)
    message = str(caught.value)
    assert message.startswith(f"annotations: {paths[0]}: {part}[0]")
    assert member in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("part", "entry", "message"),
    [
        ("images", "a text", r"images\[0\] is a str, not an object"),
        ("annotations", [], r"annotations\[0\] is a list, not an object"),
        ("annotations", {"iscrowd": 2}, r"iscrowd 2; it is 0 or 1"),
        ("annotations", {"area": -1.0}, r"area -1.0, which is no number"),
        ("annotations", {"image_id": 8}, r"\(id 5\) has image_id 8, but no image has that id"),
        ("annotations", {"category_id": 4}, r"has category_id 4, but no category has that id"),
        ("annotations", {"segmentation": []}, r"has no segmentation.*use task detection"),
    ],
)
def test_entries_that_contradict_are_named(write_annotations, part, entry, message):
    def change(document):
        if isinstance(entry, dict):
            document[part][0] |= entry
        else:
            document[part][0] = entry

    with pytest.raises(ConfigError, match=message):
        read(write_annotations(change))


def test_ids_and_names_are_given_once(write_annotations):
    for part, name in (("images", "image"), ("categories", "category")):
        paths = write_annotations(lambda document, p=part: document[p].append(document[p][0]))
        with pytest.raises(ConfigError, match=f"of another {name}"):
            read(paths)
    paths = write_annotations(lambda d: d["categories"].append({"id": 4, "name": "car"}))
    with pytest.raises(ConfigError, match="two categories named 'car'; rename one"):
        read(paths)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1]", "holds a list, not an object"),
        ("{}", 'has no list "images"'),
        ('{"images": [], "annotations": {}}', 'has no list "annotations"'),
        ('{"images": [], "annotations": [], "categories": []}', "has no categories"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "no images"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    file = tmp_path / "instances.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read((str(file), str(tmp_path)))
    assert str(file) in str(caught.value)


def test_missing_images_are_counted_and_the_first_is_named(write_annotations, tmp_path):
    def change(document):
        for number in range(3):
            entry = {**document["images"][0], "id": number, "file_name": f"sub/{number}.jpg"}
            document["images"].append(entry)

    with pytest.raises(ConfigError, match=r"3 of the 4 images .* \(first: sub/0.jpg\)"):
        read(write_annotations(change))
    file, _ = write_annotations()
    with pytest.raises(ConfigError, match=r"nowhere does not exist; give the folder"):
        read((file, str(tmp_path / "nowhere")))


def test_categories_of_a_network_are_matched_by_name(write_annotations):
    paths = write_annotations()
    wanted = [Category(1, "ant"), Category(2, "brush"), Category(5, "car")]
    coco = read(paths, categories=wanted)
    assert coco.images[0].instances[0].label == 2
    assert list(coco.categories) == wanted
    with pytest.raises(ConfigError, match=r"has 1 categories that the training images lack \(car"):
        read(paths, categories=wanted[:2])


def test_a_byte_order_mark_and_missing_optional_members_are_fine(write_annotations):
    file, folder = write_annotations(lambda document: document["annotations"][0].pop("id"))
    with open(file, encoding="utf-8-sig") as opened:
        document = json.load(opened)
    with open(file, "w", encoding="utf-8-sig") as opened:
        json.dump(document, opened)
    assert read((file, folder)).num_instances == 1
