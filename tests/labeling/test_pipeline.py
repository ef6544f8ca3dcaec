"""The stages between image files and labels: order, batches, padding."""

import numpy as np
import torch

from fkd.crops.records import CropRecords
from fkd.crops.replay import InputSpec, replay
from fkd.labeling.pipeline import (
    ImageRow,
    PreparedImage,
    cut_batches,
    replay_batch,
)


def image(shard, name, num_crops):
    pixels = torch.full((3, 9, 9), num_crops, dtype=torch.uint8)
    box = np.tile([0, 0, 9, 9], (num_crops, 1))
    records = CropRecords(box, np.zeros(num_crops, bool)) if num_crops else None
    return PreparedImage(shard, ImageRow(name.encode(), name, records=records), pixels)


def outline(batches):
    return [
        (batch.shard, [(p.image.row.name, p.first, p.stop) for p in batch.pieces])
        for batch in batches
    ]


def test_batches_run_over_images_and_end_with_their_shard():
    images = [image(0, "a", 3), image(0, "b", 3), image(2, "c", 4), image(5, "d", 1)]
    assert outline(cut_batches(images, 4)) == [
        (0, [("a", 0, 3), ("b", 0, 1)]),
        (0, [("b", 1, 3)]),
        (2, [("c", 0, 4)]),
        (5, [("d", 0, 1)]),
    ]


def test_every_image_starts_in_one_batch_also_when_it_cannot_be_read():
    images = [image(0, "a", 4), image(0, "bad", 0), image(1, "worse", 0)]
    batches = list(cut_batches(images, 4))
    assert [[row.name for row in batch.starting] for batch in batches] == [
        ["a"],
        ["bad"],
        ["worse"],
    ]
    assert [len(batch) for batch in batches] == [4, 0, 0]
    assert replay_batch(batches[1], [InputSpec(8, "bilinear")], 4).views == []


def test_the_last_batch_is_padded_because_an_output_depends_on_the_size_of_its_batch():
    (batch,) = cut_batches([image(0, "a", 2), image(0, "b", 1)], 8)
    views = [InputSpec(5, "bilinear"), InputSpec(7, "bicubic")]
    teacher_input = replay_batch(batch, views, 8)
    assert [tuple(view.shape) for view in teacher_input.views] == [(8, 3, 5, 5), (8, 3, 7, 7)]
    assert teacher_input.crops == [("a", 0), ("a", 1), ("b", 0)]
    for view, (size, interpolation, _) in zip(teacher_input.views, views, strict=True):
        assert view.is_contiguous(memory_format=torch.channels_last)
        first = batch.pieces[0].image
        assert torch.equal(view[:2], replay(first.pixels, first.row.records, size, interpolation))
        assert view[2].unique().tolist() == [1]
        assert view[3:].count_nonzero() == 0
