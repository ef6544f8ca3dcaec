"""Objects of Hugging Face `datasets`: followed in their order, never decoded, kinds told apart."""

import datasets
import pytest
from torch.utils.data import Subset

from fkd.data.multicrop import MultiCropDataset
from fkd.data.sources import as_source
from fkd.errors import ConfigError, ImageError
from tests.data.kinds import as_dataset, files_below


@pytest.fixture(scope="module")
def files(image_folder):
    return files_below(image_folder)


@pytest.fixture(scope="module")
def dataset(files) -> datasets.Dataset:
    return as_dataset(files)


CHANGES = {
    "as it is": lambda d: d,
    "select": lambda d: d.select([8, 1, 14]),
    "a run of rows": lambda d: d.select(range(4, 9)),
    "shuffle": lambda d: d.shuffle(seed=1),
    "sort": lambda d: d.sort("label", reverse=True),
    "shuffle, select, filter": lambda d: (
        d.shuffle(seed=2).select(range(10)).filter(lambda label: label != 1, input_columns="label")
    ),
    "split": lambda d: d.train_test_split(0.4, seed=0)["test"],
    "joined": lambda d: datasets.concatenate_datasets([d.select([3]), d.select([1, 2])]),
    "more columns": lambda d: d.add_column("caption", ["text"] * len(d)),
    "other names": lambda d: d.rename_columns({"image": "img", "label": "kind"}),
    "as tensors": lambda d: d.with_format("torch"),
    "some columns as tensors": lambda d: d.with_format("numpy", columns=["label"]),
    "undecoded": lambda d: d.cast_column("image", datasets.Image(decode=False)),
}


@pytest.mark.filterwarnings("ignore:Specifying null_placement:FutureWarning")  # of `sort`
@pytest.mark.parametrize("change", CHANGES)
def test_the_order_of_the_object_is_followed(change, dataset):
    changed = CHANGES[change](dataset)
    image = "img" if "img" in changed.features else "image"
    label = "kind" if "kind" in changed.features else "label"
    rows = changed.with_format(None).cast_column(image, datasets.Image(decode=False))
    source = as_source(changed)
    assert [source.read(i) for i in range(len(source))] == [row["bytes"] for row in rows[image]]
    assert [source.label(i) for i in range(len(source))] == list(rows[label])
    assert source.class_names == ["ant", "bee", "cat"]
    assert [source.key(i) for i in range(len(source))] == [b"%08d" % i for i in range(len(changed))]


def test_a_subset_keeps_the_keys_of_the_whole(dataset):
    whole, part = as_source(dataset), as_source(Subset(dataset, [12, 3]))
    assert [part.key(i) for i in range(2)] == [b"00000003", b"00000012"]
    assert [part.read(i) for i in range(2)] == [whole.read(3), whole.read(12)]
    assert [part.label(i) for i in range(2)] == [whole.label(3), whole.label(12)]
    assert part.name(1) == "row 12 of the data set Dataset"


def test_labels_may_be_missing(files):
    dataset = as_dataset(files).remove_columns("label")
    assert as_source(dataset).class_names is None
    some = dataset.add_column("label", [None, 2, *[0] * (len(files) - 2)])
    assert [as_source(some).label(i) for i in range(3)] == [-1, 2, 0]


def test_rows_with_a_path_are_read_from_their_files(image_folder, tmp_path, monkeypatch):
    """Paths that are not absolute begin in the current folder, as where `datasets` reads them."""
    monkeypatch.chdir(image_folder)
    paths = [str(image_folder / "ant" / "0.png"), str(tmp_path / "gone.png"), None, "ant/1.png"]
    columns = datasets.Features({"image": datasets.Image()})
    source = as_source(datasets.Dataset.from_dict({"image": paths}, features=columns))
    assert source.read(0) == (image_folder / "ant" / "0.png").read_bytes()
    with pytest.raises(ImageError, match=r"gone.png .* cannot be read"):
        source.read(1)
    with pytest.raises(ImageError, match=r"row 2 of the data set Dataset has neither"):
        source.read(2)
    assert source.read(3) == (image_folder / "ant" / "1.png").read_bytes()


def twice(dataset, column, names):
    for name in names:
        dataset = dataset.add_column(name, dataset.data.column(column)).cast_column(
            name, dataset.features[column]
        )
    return dataset.remove_columns(column)


REFUSED = {
    "reads images as L, and labels are of RGB": lambda d: d.cast_column(
        "image", datasets.Image(mode="L")
    ),
    "streamed IterableDataset has no images by position": lambda d: d.to_iterable_dataset(),
    "streamed IterableDatasetDict": lambda d: datasets.IterableDatasetDict(
        train=d.to_iterable_dataset()
    ),
    r"several splits \(train, test\); give one, such as dataset\['train'\]": lambda d: (
        datasets.DatasetDict(train=d, test=d)
    ),
    "has a transform .set_transform., which would not be applied": lambda d: d.with_transform(
        lambda rows: rows
    ),
    "has no rows": lambda d: d.select([]),
    "images.image_column: .* has no column 'image', only label": lambda d: d.remove_columns(
        "image"
    ),
    r"several columns of classes \(fine, coarse\)": lambda d: twice(d, "label", ["fine", "coarse"]),
    r"several columns of images \(left, right\)": lambda d: twice(d, "image", ["left", "right"]),
    "not encoded images": lambda d: d.remove_columns("image").add_column("image", [1] * len(d)),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_cannot_be_labeled_is_refused(sentence, dataset):
    with pytest.raises(ConfigError, match=sentence):
        as_source(REFUSED[sentence](dataset))


def test_a_loader_trains_on_an_object(dataset, make_store, tmp_path):
    labels = make_store(tmp_path / "labels", as_source(dataset))
    multi = MultiCropDataset(dataset, labels, crops_per_image=2, size=16)
    assert len(multi) == 15
    assert multi[3] is not None
