"""Fresh crops with labels of label maps: the same crops as without, each with its own label."""

import pickle

import numpy as np
import pytest
import torch
from torchvision.ops import roi_align

from fkd.crops.replay import InputSpec
from fkd.crops.sampling import CropConfig
from fkd.data.batches import CropCutter, load_batches
from fkd.data.crop_sources import CropRequest, FreshCropSource
from fkd.data.joining import join_store
from fkd.data.maps import MapCropSource
from fkd.data.sources import ImagesConfig, load, open_source
from fkd.errors import ConfigError, CropMismatch, MissingLabel

FORMAT = [InputSpec(24, "bilinear")]
CROPS = CropConfig(seed=5)


@pytest.fixture
def views(image_source, map_store):
    return MapCropSource(image_source, map_store, CROPS)


def dense_label(store, key, box, size) -> torch.Tensor:
    """The way of the authors' code: a map full of zeros, RoI align, softmax; with x and y right."""
    entry = store[key]
    rows, columns = store.grid
    dense = torch.zeros(rows * columns, store.num_classes, dtype=torch.float64)
    ids, values = torch.from_numpy(entry.label.ids), torch.from_numpy(entry.label.values)
    dense.scatter_(1, ids, values.double())
    top, left, height, width = box.tolist()
    y1, y2 = (rows * (e / size[0]) - 0.5 for e in (top, top + height))
    x1, x2 = (columns * (e / size[1]) - 0.5 for e in (left, left + width))
    pooled = roi_align(
        dense.T.reshape(1, -1, rows, columns).contiguous(),
        torch.tensor([[0.0, x1, y1, x2, y2]], dtype=torch.float64),
        1,
        sampling_ratio=-1,
        aligned=False,
    )
    return torch.softmax(pooled[0, :, 0, 0], 0)


def test_labels_are_those_of_the_crops(views, image_source, map_store):
    images = np.array([3, 14, 0, 3])
    selected = views.select(images, start=7, crops_per_image=5)
    labels = selected.targets.dense().reshape(4, 5, -1).double()
    for j, i in enumerate(images.tolist()):
        loaded = load(image_source, i)
        records = selected.records(j, loaded)
        assert len(records) == 5
        for crop, box in enumerate(records.box):
            size = loaded.image.shape[1:]
            expected = dense_label(map_store, image_source.key(i), box, size)
            torch.testing.assert_close(labels[j, crop], expected, atol=1e-5, rtol=0)
    assert torch.equal(labels[0], labels[3])
    assert len(labels[0].unique(dim=0)) > 1


def test_crops_are_those_of_plain_training(views, image_source):
    fresh = FreshCropSource(image_source, CROPS)
    ours, plain = (CropCutter(image_source, v, FORMAT) for v in (views, fresh))
    a, b = (cutter.cut([2, 9], start=3, crops_per_image=4) for cutter in (ours, plain))
    assert torch.equal(a.crops[0], b.crops[0])
    assert a.targets.labels.tolist() == [0] * 4 + [1] * 4
    assert b.targets is None


def test_workers_have_the_same_labels(views, image_source):
    cutter = CropCutter(image_source, pickle.loads(pickle.dumps(views)), FORMAT)
    requests = [[CropRequest(i, start=2, crops_per_image=2) for i in (4, 8)]]
    (batch,) = load_batches(cutter, requests, num_workers=1, pin_memory=False)
    expected = CropCutter(image_source, views, FORMAT).cut([4, 8], start=2, crops_per_image=2)
    assert torch.equal(batch.targets.dense(), expected.targets.dense())


def test_a_changed_image_is_refused(image_source, make_maps, make_images, tmp_path):
    source = open_source(ImagesConfig(root=str(make_images(tmp_path / "train"))))
    store = make_maps(tmp_path / "maps", source)
    views = MapCropSource(source, store, CROPS)
    (tmp_path / "train/ant/2.png").write_bytes((tmp_path / "train/bee/0.png").read_bytes())
    cutter = CropCutter(source, views, FORMAT)
    cutter.cut([1], start=0, crops_per_image=1)
    with pytest.raises(CropMismatch, match=r"ant/2\.png is not the file that was labeled"):
        cutter.cut([2], start=0, crops_per_image=1)


def test_an_image_without_a_map_is_refused(image_source, make_maps, tmp_path):
    store = make_maps(tmp_path / "maps", image_source, unreadable=(6,))
    join = join_store(image_source, store)
    assert join.labeled.tolist() == [i for i in range(15) if i != 6]
    views = MapCropSource(image_source, store, CROPS)
    with pytest.raises(MissingLabel, match=r"bee/1\.png"):
        views.select(np.array([6]), 0, 1)


def test_a_store_of_crops_is_refused(image_source, label_store):
    with pytest.raises(ConfigError, match=r"holds crops and no label maps; use method fkd"):
        MapCropSource(image_source, label_store, CROPS)
