"""The same images in every place: their bytes, classes and keys."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from fkd.data.sources import ImageSource
from tests.data.kinds import PLACES, files_below, open_place, place

KEYS = {
    "tar": b"train-0.tar/ant/0.png",
    "timm tar": b"train-0.tar/ant/0.png",
    "parquet": b"images.parquet/000000",
    "saved": b"data-00000-of-00002.arrow/000000",
    "saved splits": b"data-00000-of-00001.arrow/000000",
    "datasets": b"00000000",
}


@pytest.fixture(scope="module", params=PLACES)
def placed(request, image_folder, tmp_path_factory) -> tuple[str, ImageSource]:
    out = tmp_path_factory.mktemp("place")
    return request.param, open_place(place(request.param, image_folder, out))


def test_every_place_has_the_bytes_and_classes_of_the_folder(placed, image_folder):
    name, source = placed
    assert isinstance(source, ImageSource)
    assert source.class_names == ["ant", "bee", "cat"]
    found = {source.read(i): source.class_names[source.label(i)] for i in range(len(source))}
    assert found == {data: path[:3] for path, data in files_below(image_folder)}
    keys = [source.key(i) for i in range(len(source))]
    assert keys == sorted(set(keys))
    folder_key = b"ant/0.png"
    if name in ("list", "csv"):  # they lie elsewhere, and say where the images are
        folder_key = bytes(image_folder / "ant/0.png")
    assert keys[0] == KEYS.get(name, folder_key)
    assert source.name(0).isprintable()
    assert "15 images, 3 classes" in repr(source)


def test_every_place_can_be_read_by_threads_and_workers(placed):
    _, source = placed
    alone = [source.read(i) for i in range(len(source))]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(source.read, range(len(source)))) == alone
    copy = pickle.loads(pickle.dumps(source))  # as a spawned worker gets it
    assert [copy.read(i) for i in range(len(copy))] == alone
    assert [copy.key(i) for i in range(len(copy))] == [source.key(i) for i in range(len(source))]
