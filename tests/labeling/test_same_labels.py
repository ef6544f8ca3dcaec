"""Labels follow the content of images: the same files have the same ones, wherever they lie."""

import numpy as np
import pytest

from fkd.data.sources import ImagesConfig
from fkd.labeling import setup as labeling_setup
from fkd.labeling.run import label
from fkd.store import LabelStore
from tests.data.kinds import PLACES, open_place, place


def contents_of(store: LabelStore) -> tuple[np.ndarray, ...]:
    """Facts, crop records and labels of all images, in the order of their checksums."""
    rows = np.arange(len(store))
    order = np.argsort(store.images(rows).crc32)
    read = store.read(rows[order])
    extra = [read.records.extra[name] for name in sorted(read.records.extra)]
    facts = list(read.images.columns.values())
    label = [array for array in (read.label.ids, read.label.values) if array is not None]
    return (*facts, read.records.box, read.records.flip, *extra, *label)


@pytest.mark.parametrize("form", ["plain", "compact"])
def test_labels_do_not_depend_on_where_images_lie(
    form, make_config, image_folder, tmp_path, monkeypatch
):
    """In float32, so that the last bit of an output shows; compact boxes are drawn from facts."""
    options = {"plain": {"codec": "full", "value_dtype": "f32"}, "compact": {"codec": "ms:3"}}[form]
    given = {name: place(name, image_folder, tmp_path / name) for name in PLACES}
    monkeypatch.setattr(
        labeling_setup, "open_source", lambda config: open_place(given[config.root])
    )
    expected, keys = None, set()
    for name in PLACES:
        config = make_config(
            tmp_path / f"{name} labels",
            images=ImagesConfig(root=name),
            form=form,
            num_crops=2,
            spot_checks=0,
            **options,
        )
        store = label(config).store
        keys.add(tuple(store.keys()))
        contents = contents_of(store)
        expected = contents if expected is None else expected
        for ours, theirs in zip(contents, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
    assert len(keys) > 4


def test_a_copy_has_the_labels_of_its_original(make_config, make_images, tmp_path):
    folder = make_images(tmp_path / "images", per_class=1)
    (folder / "bee" / "copy.png").write_bytes((folder / "ant" / "0.png").read_bytes())
    config = make_config(
        tmp_path / "labels", images=ImagesConfig(root=str(folder)), num_crops=3, spot_checks=0
    )
    store = label(config).store
    read = store.read(store.rows([b"ant/0.png", b"bee/copy.png"]))
    np.testing.assert_array_equal(read.records.box[0], read.records.box[1])
    np.testing.assert_array_equal(read.label.ids[0], read.label.ids[1])
