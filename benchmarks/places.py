"""How fast the loader is where images do not lie as files: tar archives, Parquet, saved data sets.

The same photographs, labels and loader (`benchmarks.loading`) in one process, one crop of each
image, so that reading has the largest share that it can have. Against the folder of the same files.
All are in the page cache, and the Parquet file has few row groups: a data set that is larger
than the cache of `fkd.data.parquet` reads whole row groups for single images.
"""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.inputs import Inputs
from benchmarks.loading import measure_streams, our_stream
from benchmarks.rows import Row, Skipped, at_least, per_second
from benchmarks.stores import describe_images, write_store
from fkd.data.sources import ImagesConfig, ImageSource, open_source

_ROW_GROUP = 100  # rows, as `datasets` writes images
_ARCHIVES = 2
_FOLDER = "folder"


def measure_places(inputs: Inputs) -> list[Row]:
    """One row for each place."""
    sources = {_FOLDER: inputs.source}
    for name, write in _WRITERS.items():
        folder = inputs.folder / "places" / name
        folder.mkdir(parents=True)
        write(inputs.source, folder)
        sources[name] = open_source(ImagesConfig(root=str(folder)))
    streams = {name: _stream(inputs, name, source) for name, source in sources.items()}
    costs = measure_streams(inputs, streams)
    return [
        Row.of(
            f"loader from {name}, one process, m = 1",
            costs[name],
            costs[_FOLDER],
            against="the same from a folder",
            unit="crops / s",
            show=per_second,
            goal=at_least(0.9) if name == "tar" else None,
        )
        for name in _WRITERS
    ]


def _stream(inputs: Inputs, name: str, source: ImageSource) -> Any:
    store = write_store(
        inputs.folder / f"labels-{name}",
        describe_images(source),
        inputs.scale.crops,
        class_names=source.class_names or (),
    )
    return our_stream(inputs, 1, 0, store, source=source)


def _write_tar(source: ImageSource, folder: Path) -> None:
    for number in range(_ARCHIVES):
        with tarfile.open(folder / f"train-{number:06d}.tar", "w") as archive:
            for i in range(number, len(source), _ARCHIVES):
                data, info = source.read(i), tarfile.TarInfo(source.key(i).decode())
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def _table(source: ImageSource) -> Any:
    """The images as Hugging Face has them."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise Skipped("pyarrow is not installed; pip install 'fkd[hf]'") from error
    rows = range(len(source))
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    images = pa.array([{"bytes": source.read(i), "path": None} for i in rows], kind)
    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": source.class_names},
    }
    table = pa.table({"image": images, "label": [source.label(i) for i in rows]})
    return table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )


def _write_parquet(source: ImageSource, folder: Path) -> None:
    table = _table(source)
    from pyarrow import parquet

    parquet.write_table(table, folder / "train.parquet", row_group_size=_ROW_GROUP)


def _write_arrow(source: ImageSource, folder: Path) -> None:
    table = _table(source)
    import pyarrow as pa

    name = "data-00000-of-00001.arrow"
    with pa.ipc.new_stream(str(folder / name), table.schema) as stream:
        stream.write_table(table, max_chunksize=_ROW_GROUP)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}), "utf-8")


_WRITERS: dict[str, Callable[[ImageSource, Path], None]] = {
    "tar": _write_tar,
    "parquet": _write_parquet,
    "arrow": _write_arrow,
}
