"""Label stores of random numbers, for measurements that do not depend on what labels say.

They are stores like any other: crop boxes and flips as `fkd label` draws them, label maps of the
paper's size, every record with its checksum. What is in the labels costs nothing and means nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fkd.crops.records import CropRecords
from fkd.crops.replay import sample_crops
from fkd.crops.sampling import CropConfig, content_key
from fkd.data.sources import ImageSource, load, spread_images
from fkd.data.subset import SubsetSource
from fkd.errors import ConfigError, ImageError
from fkd.labels.codecs import Codec, MarginalSmoothing, TopKLogits
from fkd.labels.encoded import Encoded
from fkd.store import ImageFacts, LabeledCrops, LabelStore, StoreWriter, form_members, keys_digest
from fkd.store.geometry import grid_boxes

GRID = (15, 15)
"""Cells of a label map: those of ReLabel's teacher, EfficientNet-L2 at 475 pixels."""
_KEPT = 5  # classes of a label, in both papers
_IMAGES_PER_SHARD = 64


@dataclass(frozen=True)
class Sample:
    """Readable images of a source, and what a store knows of them.

    Attributes:
        source: the images.
        facts: of each of their files.
        num_unreadable: images that were left out.
    """

    source: ImageSource
    facts: ImageFacts
    num_unreadable: int


def read_sample(source: ImageSource, num_images: int) -> Sample:
    """At most so many images, spread over the source; each is read and decoded once.

    Raises:
        ConfigError: none of them is readable; names the first.
    """
    positions, facts, faults = [], [], []
    for i in spread_images(source, num_images):
        try:
            loaded = load(source, i)
        except ImageError as error:
            faults.append(error)
            continue
        positions.append(i)
        facts.append((loaded.crc32, loaded.num_bytes, loaded.size))
    if not positions:
        raise ConfigError(f"images.root: {source.root} has no readable image: {faults[0]}")
    crc32, num_bytes, size = map(np.array, zip(*facts, strict=True))
    status = np.zeros(len(positions), np.uint8)
    columns = ImageFacts(crc32.astype(np.uint32), num_bytes, size, status)
    return Sample(SubsetSource(source, positions), columns, len(faults))


def write_random_labels(
    path: Path, sample: Sample, class_names: Sequence[str], num_crops: int
) -> LabelStore:
    """A plain store of `num_crops` crops of each image, labels ms:5."""
    codec = MarginalSmoothing(min(_KEPT, len(class_names)))
    random = torch.Generator().manual_seed(0)
    logits = 3.0 * torch.randn(num_crops, len(class_names), generator=random)
    label = codec.encode(torch.softmax(logits, dim=1))
    numbers, crops = np.arange(num_crops), CropConfig()

    def records(row: int) -> CropRecords:
        facts = sample.facts
        height, width = facts.size[row].tolist()
        content = content_key(int(facts.crc32[row]), int(facts.num_bytes[row]))
        return sample_crops(crops, content, (height, width), numbers)

    def content(rows: Sequence[int]) -> tuple[CropRecords, Encoded]:
        return CropRecords.stack([records(row) for row in rows]), _of_each(label, len(rows))

    members = form_members("plain", codec, len(class_names)) | {"extras": {}}
    return _write(path, sample, class_names, codec, members | {"num_crops": num_crops}, content)


def write_random_maps(path: Path, sample: Sample, class_names: Sequence[str]) -> LabelStore:
    """A store of label maps, 15 x 15 cells with 5 classes each."""
    codec = TopKLogits(min(_KEPT, len(class_names)))
    cells = GRID[0] * GRID[1]
    random = torch.Generator().manual_seed(0)
    label = codec.encode(3.0 * torch.randn(cells, len(class_names), generator=random))

    def content(rows: Sequence[int]) -> tuple[CropRecords, Encoded]:
        boxes = grid_boxes(GRID, sample.facts.size[list(rows)])
        return CropRecords(boxes, np.zeros(boxes.shape[:2], bool)), _of_each(label, len(rows))

    members = form_members("map", codec, len(class_names)) | {"grid": list(GRID)}
    return _write(path, sample, class_names, codec, members | {"num_crops": cells}, content)


def _of_each(label: Encoded, num_images: int) -> Encoded:
    """The same labels (M, ...) for each image, (n, M, ...)."""
    return label.map(lambda array: np.repeat(array[None], num_images, axis=0))


def _part(facts: ImageFacts, rows: range) -> ImageFacts:
    return facts.map(lambda array: array[rows.start : rows.stop])


def _write(
    path: Path,
    sample: Sample,
    class_names: Sequence[str],
    codec: Codec,
    members: dict[str, Any],
    content: Any,
) -> LabelStore:
    keys = [sample.source.key(i) for i in range(len(sample.source))]
    config = members | {
        "num_images": len(keys),
        "num_classes": len(class_names),
        "class_names": list(class_names),
        "codec": codec.name,
        "images_per_shard": _IMAGES_PER_SHARD,
        "keys_sha256": keys_digest(keys),
        "teachers": [{"name": "random numbers"}],
    }
    with StoreWriter.open(path, config) as writer:
        for number in writer.pending():
            rows = range(*writer.shard_range(number))
            shard = LabeledCrops(_part(sample.facts, rows), *content(rows))
            writer.commit(number, [keys[row] for row in rows], shard)
        writer.finish({}, [])
    return LabelStore.open(path)
