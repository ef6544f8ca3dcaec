"""Real JPEG files of the size that ImageNet's have, from the photographs of the demo.

About 470x390 pixels and 110 kB, cut from a dozen photographs at random places, in class folders. A
user's own images can take their place; some are copied, so that every loader can read them as
torchvision's ImageFolder.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from fkd.data.sources import ImagesConfig, open_source
from fkd.demo.images import write_photographs
from fkd.errors import ConfigError

_ASPECT = 1.2  # width over height
_BYTES_PER_PIXEL = 0.6  # 110 kB for 470x390 pixels
_QUALITIES = (75, 80, 85, 88, 90, 92, 94, 96, 97, 98)
_MIN_IMAGES = 2


def write_jpegs(folder: Path, number: int, side: int, seed: int = 0) -> None:
    """`number` JPEG files in one class folder per photograph, about `side` pixels high.

    Raises:
        ConfigError: the packages with the photographs are not installed.
    """
    originals = folder / "originals"
    write_photographs(originals)
    paths = sorted(originals.iterdir())
    draw = np.random.default_rng(seed)
    for i in range(number):
        path = paths[i % len(paths)]
        with Image.open(path) as opened:
            image = _cut(opened.convert("RGB"), side, draw)
        target = folder / "classes" / path.stem / f"{i:05d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(_encode(image))


def copy_images(folder: Path, images: ImagesConfig, number: int) -> None:
    """Some images of a source, spread over it, as files in class folders.

    Raises:
        ConfigError: there are too few images.
    """
    source = open_source(images)
    if len(source) < max(number, _MIN_IMAGES):
        raise ConfigError(
            f"images.root: {images.root} has {len(source)} images and {number} are needed; give "
            "another folder, or leave it out to use photographs that are installed"
        )
    for i in np.linspace(0, len(source) - 1, number).round().astype(int).tolist():
        name = "all" if source.class_names is None else source.class_names[source.label(i)]
        suffix = Path(source.key(i).decode("utf-8", "replace")).suffix or ".jpg"
        target = folder / "classes" / f"{max(source.label(i), 0):05d}-{name[:40].replace(' ', '_')}"
        target.mkdir(parents=True, exist_ok=True)
        (target / f"{i:08d}{suffix}").write_bytes(source.read(i))


def _cut(image: Image.Image, side: int, draw: np.random.Generator) -> Image.Image:
    """A random part of an image, half to all of its width, at about the wanted size."""
    height = round(side * draw.uniform(0.86, 1.14))
    width = round(height * _ASPECT)
    largest = min(image.width / width, image.height / height)
    scale = largest * draw.uniform(0.6, 1.0)
    left = draw.uniform(0, image.width - scale * width)
    top = draw.uniform(0, image.height - scale * height)
    box = (left, top, left + scale * width, top + scale * height)
    return image.resize((width, height), Image.Resampling.LANCZOS, box=box)


def _encode(image: Image.Image) -> bytes:
    """The JPEG whose length comes nearest to that of ImageNet's files for so many pixels."""
    wanted = _BYTES_PER_PIXEL * image.width * image.height
    best = b""
    for quality in _QUALITIES:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        best = min(best, file.getvalue(), key=lambda data: abs(len(data) - wanted))
        if len(best) > wanted:
            break
    return best
