"""The same images in every place where images may lie, for tests that loop over the places."""

import io
import tarfile
from pathlib import Path

import datasets
import timm.data
from pyarrow import parquet as pq
from timm.data.readers.reader_image_in_tar import ReaderImageInTar
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder

from fkd.data.sources import ImagesConfig, ImageSource, as_source, open_source

PLACES = (
    "folder",
    "tar",
    "parquet",
    "saved",
    "saved splits",
    "list",
    "csv",
    "datasets",
    "ImageFolder",
    "timm folder",
    "timm tar",
    "Subset",
)
"""Objects are `datasets` and all below it; the others are paths."""

Files = list[tuple[str, bytes]]


def files_below(root: Path) -> Files:
    """(CLASS/NAME, bytes) of all images of a folder of classes, in the order of their keys."""
    paths = sorted(path for path in root.rglob("*") if path.suffix in (".png", ".jpg"))
    return [(path.relative_to(root).as_posix(), path.read_bytes()) for path in paths]


def pack(path: Path, files: Files) -> None:
    """A tar archive of these files."""
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def as_dataset(files: Files) -> datasets.Dataset:
    """An object of `datasets` in memory, with encoded bytes and named classes."""
    names = sorted({name.partition("/")[0] for name, _ in files})
    columns = {
        "image": [{"bytes": data, "path": None} for _, data in files],
        "label": [names.index(name.partition("/")[0]) for name, _ in files],
    }
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))


def place(name: str, folder: Path, out: Path):
    """What a user gives for the images of a folder of classes in this place: a path or an object.

    Args:
        name: one of `PLACES`.
        folder: the folder of classes.
        out: a folder for copies.
    """
    files = files_below(folder)
    out.mkdir(parents=True, exist_ok=True)
    if name == "folder":
        return str(folder)
    if name in ("tar", "timm tar"):
        for number in range(2):  # not in the order of the folder
            pack(out / f"train-{number}.tar", files[number::2])
        return (
            str(out)
            if name == "tar"
            else timm.data.ImageDataset(str(out), reader=ReaderImageInTar(str(out)))
        )
    if name == "parquet":
        table = as_dataset(files).data.table
        pq.write_table(table, out / "images.parquet", row_group_size=4)
        return str(out)
    if name.startswith("saved"):
        dataset = as_dataset(files)
        if name == "saved splits":
            datasets.DatasetDict(train=dataset, test=dataset.select([0])).save_to_disk(out / "d")
        else:
            dataset.save_to_disk(out / "d", num_shards=2)
        return str(out / "d")
    if name in ("list", "csv"):
        lines = [f"{folder / path}{',' if name == 'csv' else ' '}{path[:3]}" for path, _ in files]
        (out / f"images.{'csv' if name == 'csv' else 'txt'}").write_text("\n".join(lines))
        return str(out / f"images.{'csv' if name == 'csv' else 'txt'}")
    if name == "datasets":
        return as_dataset(files[::-1]).select(range(len(files))[::-1])
    if name == "timm folder":
        return timm.data.ImageDataset(str(folder))
    whole = ImageFolder(str(folder))
    return whole if name == "ImageFolder" else Subset(whole, list(range(len(whole)))[::-1])


def open_place(given: object) -> ImageSource:
    """The source that `place` describes."""
    if isinstance(given, str):
        return open_source(ImagesConfig(root=given))
    return as_source(given)
