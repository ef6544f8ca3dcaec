"""Is this the image file that was labeled? Everything that pairs images with labels checks it here.

A label belongs to the pixels of one file, so a file of other bytes is refused, and so is one that
decodes to another size than it did when it was labeled.
"""

from bisect import bisect_left
from typing import Any

from torch import Tensor

from fkd.data.decode import Decoder
from fkd.data.sources import ImageSource, LoadedImage, load, spread_images
from fkd.errors import CropMismatch, StoreMismatch
from fkd.store import ImageFacts, LabelStore, keys_digest
from fkd.store.canonical import printable

_IDENTIFYING = 64  # images whose content is compared when a run is started again


def identify_images(source: ImageSource) -> dict[str, Any]:
    """What tells images from others, in values of JSON: their keys, and the content of some.

    Reading all would take long at every start; images of a store are compared with it one by one
    when they are read.
    """
    keys = [source.key(i) for i in range(len(source))]
    some = map(source.read, spread_images(source, _IDENTIFYING))
    return {
        "num_images": len(source),
        "keys_sha256": keys_digest(keys),
        "sampled_contents_sha256": keys_digest(some),
    }


def is_labeled_file(facts: ImageFacts, i: int, crc32: int, num_bytes: int) -> bool:
    """Whether a file of this checksum and length is the i-th of the labeled files."""
    return bool(facts.crc32[i] == crc32 and facts.num_bytes[i] == num_bytes)


def require_labeled_file(facts: ImageFacts, i: int, loaded: LoadedImage, name: str) -> None:
    """Refuse an image that is not the one that was labeled.

    Args:
        facts: what the store knows of n image files.
        i: which of them the image should be.
        loaded: the image.
        name: what messages call it.

    Raises:
        CropMismatch: its bytes differ, or it decodes to another size.
    """
    if not is_labeled_file(facts, i, loaded.crc32, loaded.num_bytes):
        raise CropMismatch(
            f"{name} is not the file that was labeled (its checksum differs); restore it, or "
            "label these images anew"
        )
    size, labeled = loaded.size, tuple(facts.size[i].tolist())
    if size != labeled:
        raise CropMismatch(
            f"{name} decodes to {size[0]}x{size[1]} pixels here but to {labeled[0]}x{labeled[1]} "
            "when it was labeled; use the decoder versions that the store names"
        )


def find_image(source: ImageSource, key: bytes) -> int | None:
    """The position of an image in a source, by its key; None if it is not there."""
    i = bisect_left(range(len(source)), key, key=source.key)
    return i if i < len(source) and source.key(i) == key else None


def load_labeled(
    store: LabelStore, source: ImageSource, row: int, decoder: Decoder = "pillow"
) -> Tensor:
    """The decoded image of a row of the store, uint8 (3, H, W), checked to be the labeled one.

    Raises:
        StoreMismatch: the source has no such image.
        CropMismatch: the file was changed since it was labeled.
        ImageError: it cannot be read.
    """
    (key,) = store.keys([row])
    i = find_image(source, key)
    if i is None:
        raise StoreMismatch(
            f"{source.root} has no image {printable(key)}, which {store.path} has; use the images "
            "that were labeled"
        )
    loaded = load(source, i, decoder)
    require_labeled_file(store.images([row]), 0, loaded, source.name(i))
    return loaded.image
