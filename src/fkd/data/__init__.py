"""From image files to batches: sources of encoded images, one decoder, the multi-crop data set.

The names below are imported when first used: reading a folder does not need the whole room.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fkd.data.decode import decode_image
    from fkd.data.multicrop import MultiCropDataset, collate_crops
    from fkd.data.sources import ImagesConfig, ImageSource, as_source, open_source

_HOME_OF = {
    "ImageSource": "fkd.data.sources",
    "ImagesConfig": "fkd.data.sources",
    "MultiCropDataset": "fkd.data.multicrop",
    "as_source": "fkd.data.sources",
    "collate_crops": "fkd.data.multicrop",
    "decode_image": "fkd.data.decode",
    "open_source": "fkd.data.sources",
}

__all__ = [
    "ImageSource",
    "ImagesConfig",
    "MultiCropDataset",
    "as_source",
    "collate_crops",
    "decode_image",
    "open_source",
]


def __getattr__(name: str) -> Any:
    """Import a name from the module it lives in."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'fkd.data' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
