"""Average precision: perfect detections, crowds, and COCO's definition written naively."""

import numpy as np
import pytest
import torch

from fkd.transfer.average_precision import PrecisionMeter
from fkd.transfer.batches import build_target
from fkd.transfer.coco import read_coco

OVERLAPS = np.arange(0.5, 1.0, 0.05)


@pytest.fixture(scope="module", params=["train", "val"])
def targets(request, coco_folder):
    """Of images with a crowd, and with nothing."""
    part = f"{request.param}2017"
    file = coco_folder / "annotations" / f"instances_{part}.json"
    coco = read_coco("annotations", str(file), str(coco_folder / part), masks=True)
    return [build_target(entry, masks=True, training=False) for entry in coco.images]


def perfect(target):
    """What a detector would have to say: each object, no crowd."""
    objects = target["iscrowd"] == 0
    return {
        "boxes": target["boxes"][objects],
        "labels": target["labels"][objects],
        "scores": torch.linspace(0.9, 0.5, int(objects.sum())),
        "masks": target["masks"][objects].float()[:, None] * 0.8,
    }


def figures(detections, targets, *, masks=True):
    meter = PrecisionMeter(masks=masks)
    for found, wanted in zip(detections, targets, strict=True):
        meter.add([found], [wanted])
    return meter.compute()


def test_perfect_detections_have_an_ap_of_1_in_boxes_and_masks(targets):
    assert any(target["iscrowd"].any() for target in targets)
    assert any(len(target["boxes"]) == 0 for target in targets)
    of = figures(map(perfect, targets), targets)
    for kind in ("box", "mask"):
        assert (of[kind].ap, of[kind].ap50, of[kind].ap75) == (100.0, 100.0, 100.0)
        assert of[kind].per_label == {1: 100.0, 2: 100.0, 3: 100.0}


def test_detections_inside_a_crowd_count_neither_way(targets):
    found = [perfect(target) for target in targets]
    index = next(i for i, target in enumerate(targets) if target["iscrowd"].any())
    crowd = targets[index]["iscrowd"] == 1
    inside = targets[index]["masks"][crowd].float()[:, None]
    added = {
        "boxes": targets[index]["boxes"][crowd],
        "labels": targets[index]["labels"][crowd],
        "scores": torch.tensor([0.99]),
        "masks": inside,
    }
    found[index] = {name: torch.cat([found[index][name], added[name]]) for name in added}
    of = figures(found, targets)
    assert (of["box"].ap, of["mask"].ap) == (100.0, 100.0)


def test_nothing_found_is_0_and_nothing_to_find_is_none(targets):
    empty = [{name: value[:0] for name, value in perfect(target).items()} for target in targets]
    of = figures(empty, targets)
    assert (of["box"].ap, of["mask"].ap) == (0.0, 0.0)
    nothing = [{name: value[:0] for name, value in target.items()} for target in targets]
    of = figures(empty, nothing)
    assert (of["box"].ap, of["box"].per_label) == (None, {})


def box_iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def naive_ap(detections, targets, label, overlap):
    """Greedy matching by score, then the mean of the precision at 101 recalls."""
    claims, num_objects = [], 0
    for found, wanted in zip(detections, targets, strict=True):
        objects = wanted["boxes"][wanted["labels"] == label].tolist()
        num_objects += len(objects)
        free = set(range(len(objects)))
        mine = found["labels"] == label
        order = found["scores"][mine].argsort(descending=True)
        for box, score in zip(
            found["boxes"][mine][order].tolist(), found["scores"][mine][order].tolist(), strict=True
        ):
            overlaps = {i: box_iou(box, objects[i]) for i in free}
            best = max(overlaps, key=overlaps.get, default=None)
            right = best is not None and overlaps[best] >= overlap
            if right:
                free.remove(best)
            claims.append((score, right))
    claims.sort(key=lambda claim: -claim[0])
    right = np.cumsum([claim[1] for claim in claims])
    recall, precision = right / num_objects, right / np.arange(1, len(claims) + 1)
    points = [max(precision[recall >= r - 1e-12], default=0.0) for r in np.linspace(0, 1, 101)]
    return float(np.mean(points))


def random_scene(draw):
    """Objects of two labels, and detections near them and elsewhere, with distinct scores."""

    def boxes(count):
        corners = draw.uniform(0, 60, (count, 2))
        return np.concatenate([corners, corners + draw.uniform(15, 35, (count, 2))], 1)

    objects = boxes(5)
    found = np.concatenate([objects + draw.normal(0, 2, objects.shape), boxes(3)])
    labels = draw.integers(1, 3, 5)
    target = {
        "boxes": torch.tensor(objects, dtype=torch.float32),
        "labels": torch.tensor(labels),
        "iscrowd": torch.zeros(5, dtype=torch.int64),
        "area": torch.tensor(np.prod(objects[:, 2:] - objects[:, :2], 1), dtype=torch.float32),
    }
    detection = {
        "boxes": torch.tensor(found, dtype=torch.float32),
        "labels": torch.tensor(np.concatenate([labels, draw.integers(1, 3, 3)])),
        "scores": torch.tensor(draw.permutation(8) / 8 + draw.uniform(0, 0.1), dtype=torch.float32),
    }
    return detection, target


@pytest.mark.parametrize("seed", range(4))
def test_boxes_are_measured_as_coco_defines_it(seed):
    draw = np.random.default_rng(seed)
    detections, targets = zip(*(random_scene(draw) for _ in range(6)), strict=True)
    of = figures(detections, targets, masks=False)["box"]
    table = [[naive_ap(detections, targets, label, o) for o in OVERLAPS] for label in (1, 2)]
    assert of.ap == pytest.approx(100 * np.mean(table), abs=1e-3)
    assert of.ap50 == pytest.approx(100 * np.mean([row[0] for row in table]), abs=1e-3)
    assert of.ap75 == pytest.approx(100 * np.mean([row[5] for row in table]), abs=1e-3)
    for label in (1, 2):
        assert of.per_label[label] == pytest.approx(100 * np.mean(table[label - 1]), abs=1e-3)
    assert 5 < of.ap < 95


def test_processes_bring_together_what_each_has_counted(targets, monkeypatch):
    """Two meters stand for two processes; what is gathered is the lists of both."""
    detections = [perfect(target) for target in targets]
    detections[0]["boxes"] += 3.0
    whole = figures(detections, targets)
    meters = [PrecisionMeter(masks=True) for _ in range(2)]
    for i, (found, wanted) in enumerate(zip(detections, targets, strict=True)):
        meters[i % 2].add([found], [wanted])
    other = iter(list(value) for value in meters[1]._metric.metric_state.values())
    monkeypatch.setattr(
        "fkd.transfer.average_precision.gather_object", lambda own: own + next(other)
    )
    meters[0].gather()
    assert meters[0].compute() == whole
    assert whole["box"].ap < 100.0


def test_more_than_100_detections_are_no_warning(targets):
    many = {
        "boxes": torch.tensor([[0.0, 0.0, 5.0, 5.0]]).repeat(101, 1),
        "labels": torch.ones(101, dtype=torch.int64),
        "scores": torch.linspace(0, 1, 101),
    }
    meter = PrecisionMeter(masks=False)
    meter.add([many], targets[:1])
    assert meter.compute()["box"].ap is not None
