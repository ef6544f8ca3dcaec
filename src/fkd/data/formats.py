"""Which files are images: the formats that can be read here, and the extensions of their files.

Pillow brings most formats. Two more are read where a plugin of Pillow is installed; it is imported
when the first such file is decoded, because importing it is slow and registers it in the process.
"""

from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from PIL import (  # noqa: F401 - importing a plugin registers its format in Image.OPEN
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
"""Formats of Pillow itself, in the order in which a file is tried."""

PLUGINS = {"HEIF": "pillow_heif", "JXL": "pillow_jxl"}
"""Formats of plugins, and the modules that bring them."""

EXTENSIONS = {
    "JPEG": (b".jpg", b".jpeg", b".jpe", b".jfif", b".mpo"),
    "PNG": (b".png", b".apng"),
    "WEBP": (b".webp",),
    "BMP": (b".bmp", b".dib"),
    "GIF": (b".gif",),
    "TIFF": (b".tif", b".tiff"),
    "PPM": (b".ppm", b".pgm", b".pbm", b".pnm"),
    "AVIF": (b".avif",),
    "JPEG2000": (b".jp2", b".j2k", b".jpc", b".jpf", b".jpx", b".j2c"),
    "HEIF": (b".heic", b".heif", b".hif"),
    "JXL": (b".jxl",),
}

_CODECS = {"AVIF": "avif", "JPEG2000": "jpg_2000"}  # that a build of Pillow may lack

Opener = tuple[Callable[..., Any], Callable[[bytes], bool | str] | None]


def image_extensions() -> tuple[bytes, ...]:
    """Lower-case extensions of the files that can be decoded here."""
    return tuple(extension for name in _readable() for extension in EXTENSIONS[name])


def openers() -> Iterator[Opener]:
    """What opens a file of each format that can be read here, and what recognizes its first bytes.

    Those of plugins come last, so that they are imported for no other file.
    """
    for name in _readable():
        if name in PLUGINS:
            _register(PLUGINS[name])
        if name in Image.OPEN:
            yield Image.OPEN[name]


@cache
def _readable() -> tuple[str, ...]:
    pillow = [name for name in FORMATS if name not in _CODECS or features.check(_CODECS[name])]
    return (*pillow, *(name for name, module in PLUGINS.items() if find_spec(module)))


@cache
def _register(module: str) -> None:
    """Import a plugin; one of them registers its format at that, the other when it is told."""
    plugin = import_module(module)
    getattr(plugin, "register_heif_opener", lambda: None)()
