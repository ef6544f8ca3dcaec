"""Batches of images with boxes and masks."""

import numpy as np
import pytest
import torch
from PIL import Image

from fkd.errors import ImageError
from fkd.transfer.batches import DetectionCutter, build_target, flip_example, read_image
from fkd.transfer.coco import read_coco


@pytest.fixture(scope="module")
def train(coco_folder):
    file = coco_folder / "annotations" / "instances_train2017.json"
    return read_coco("annotations", str(file), str(coco_folder / "train2017"), masks=True)


def test_crowds_are_left_out_of_training_and_kept_for_average_precision(train):
    entry = train.images[0]
    learned = build_target(entry, masks=True, training=True)
    measured = build_target(entry, masks=True, training=False)
    assert learned["iscrowd"].tolist() == [0, 0]
    assert measured["iscrowd"].tolist() == [0, 0, 1]
    assert measured["masks"].shape == (3, entry.height, entry.width)
    assert measured["masks"][2, :, :4].all()
    assert not measured["masks"][2, :, 4:].any()
    torch.testing.assert_close(measured["area"][2], torch.tensor(4.0 * entry.height))


def test_an_image_without_objects_has_empty_targets_of_the_right_shape(train):
    entry = train.images[3]
    target = build_target(entry, masks=True, training=False)
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == (0,)
    assert target["masks"].shape == (0, entry.height, entry.width)


def test_boxes_of_training_end_at_the_edge(write_annotations):
    def change(document):
        document["annotations"][0]["bbox"] = [-3, 5, 40, 40]

    coco = read_coco("annotations", *write_annotations(change), masks=False)
    learned, measured = (
        build_target(coco.images[0], masks=False, training=training)["boxes"]
        for training in (True, False)
    )
    assert learned.tolist() == [[0, 5, 20, 16]]
    assert measured.tolist() == [[-3, 5, 37, 45]]


def test_a_flip_moves_pixels_boxes_and_masks_together():
    image = torch.zeros(3, 6, 10, dtype=torch.uint8)
    image[:, 1:3, 2:5] = 9
    target = {"boxes": torch.tensor([[2.0, 1.0, 5.0, 3.0]]), "masks": image[:1] // 9}
    flipped, moved = flip_example(image, target)
    left, top, right, bottom = moved["boxes"][0].int().tolist()
    assert (left, top, right, bottom) == (5, 1, 8, 3)
    assert (flipped[:, top:bottom, left:right] == 9).all()
    assert int(flipped.sum()) == 9 * 18
    assert torch.equal(moved["masks"][0] * 9, flipped[0])
    again = flip_example(flipped, moved)
    assert torch.equal(again[0], image)
    assert torch.equal(again[1]["boxes"], target["boxes"])


def test_flips_depend_on_image_and_epoch_alone(train):
    cutter = DetectionCutter(coco=train, masks=False, training=True, flip=0.5, seed=3)
    epochs = range(20)
    alone = [cutter.cut([2], epoch).images[0] for epoch in epochs]
    together = [cutter.cut([5, 2, 1], epoch).images[1] for epoch in epochs]
    assert all(map(torch.equal, alone, together))
    kinds = {image.numpy().tobytes() for image in alone}
    assert len(kinds) == 2
    share = np.mean([torch.equal(image, read_image(train, train.images[2])) for image in alone])
    assert 0.2 < share < 0.8


@pytest.mark.parametrize(("flip", "equal"), [(0.0, True), (1.0, False)])
def test_never_and_always_are_taken_literally(train, flip, equal):
    cutter = DetectionCutter(coco=train, masks=False, training=True, flip=flip)
    for epoch in range(5):
        image = cutter.cut([1], epoch).images[0]
        assert torch.equal(image, read_image(train, train.images[1])) == equal


def test_inputs_of_a_detector_are_floats_from_0_to_1(train):
    batch = DetectionCutter(coco=train, masks=True, training=True).cut([0, 1], 0).to("cpu")
    images, targets = batch.inputs()
    assert len(batch) == len(images) == len(targets) == 2
    assert all(image.dtype == torch.float32 for image in images)
    assert torch.equal((images[0] * 255).round().to(torch.uint8), batch.images[0])
    assert images[0].shape[1:] == targets[0]["masks"].shape[1:]


@pytest.mark.parametrize(
    ("size", "hint"), [((16, 20), r" \(turned by its EXIF orientation\?\)"), ((20, 17), "")]
)
def test_an_image_of_another_size_than_its_entry_is_refused(
    write_annotations, tmp_path, size, hint
):
    coco = read_coco("annotations", *write_annotations(), masks=True)
    Image.new("RGB", size).save(tmp_path / "images" / "a.png")
    cutter = DetectionCutter(coco=coco, masks=True, training=True)
    message = rf"a.png has {size[0]}x{size[1]} pixels, but image 7 of .* is 20x16{hint}, so boxes"
    with pytest.raises(ImageError, match=message):
        cutter.cut([0], 0)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_damaged_or_missing_image_is_named(write_annotations, tmp_path, content):
    coco = read_coco("annotations", *write_annotations(), masks=True)
    path = tmp_path / "images" / "a.png"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=str(path)):
        DetectionCutter(coco=coco, masks=True, training=True).cut([0], 0)
