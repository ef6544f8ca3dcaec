"""ImageNet-1k and the sets that belong to it, from the lists that timm has in its package.

Class c, 0 to 999, is the c-th WordNet id in sorted order. ReaL (Beyer et al., "Are we done with
ImageNet?", 2020) gives each of the 50,000 validation images the ids of all classes that it shows;
ImageNet-A and ImageNet-R (Hendrycks et al., 2021) have images of 200 of the classes each.
"""

import json
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

Subset = Literal["imagenet-a", "imagenet-r"]

_VAL_FILE = re.compile(r"ILSVRC2012_val_(\d{8})(?![0-9])", re.IGNORECASE)
_FILES: dict[Subset, str] = {
    "imagenet-a": "imagenet_a_synsets.txt",
    "imagenet-r": "imagenet_r_synsets.txt",
}


@cache
def wordnet_ids() -> tuple[str, ...]:
    """The WordNet ids of the 1,000 classes in the order of the class ids."""
    return tuple(_read("imagenet_synsets.txt").splitlines())


@cache
def subset_ids(subset: Subset) -> tuple[str, ...]:
    """The WordNet ids of the 200 classes of ImageNet-A or ImageNet-R, in sorted order."""
    return tuple(_read(_FILES[subset]).splitlines())


@cache
def real_labels() -> tuple[tuple[int, ...], ...]:
    """The class ids of each validation image by its number less 1; none for 3,163 of them."""
    return tuple(tuple(labels) for labels in json.loads(_read("imagenet_real_labels.json")))


def validation_number(name: str) -> int | None:
    """The number, from 1, in the name of a file of the validation images; None for other files.

    Files of the training images have numbers, too, but not these.

    Example:
        >>> validation_number("n01440764/ILSVRC2012_val_00000293.JPEG")
        293
        >>> validation_number("n01440764/n01440764_10026.JPEG") is None
        True
    """
    found = _VAL_FILE.match(name.rpartition("/")[2])
    return int(found[1]) if found and 1 <= int(found[1]) <= len(real_labels()) else None


def _read(name: str) -> str:
    """A file of timm's package, without importing timm, which brings torch."""
    timm = find_spec("timm")
    assert timm is not None
    assert timm.origin is not None
    return (Path(timm.origin).parent / "data/_info" / name).read_text(encoding="utf-8")
