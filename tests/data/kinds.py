"""The same images as a folder, as tar archives and as a Parquet file."""

import io
import tarfile
from pathlib import Path


def write_tar(folder: Path, out: Path) -> Path:
    """The files below a folder in two archives."""
    out.mkdir(parents=True)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    for number in range(2):
        with tarfile.open(out / f"{number}.tar", "w") as archive:
            for file in files[number::2]:
                data = file.read_bytes()
                info = tarfile.TarInfo(str(file.relative_to(folder)))
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return out


def write_parquet(folder: Path, out: Path) -> Path:
    """The images of class folders in one file, with the names of the classes as text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(folder.glob("*/*"))
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    out.mkdir(parents=True)
    table = pa.table({"image": images, "label": [file.parent.name for file in files]})
    pq.write_table(table, out / "train.parquet")
    return out


def write_folder(folder: Path, out: Path) -> Path:
    """The folder as it is."""
    return folder


KINDS = {"folder": write_folder, "tar": write_tar, "parquet": write_parquet}
