"""Turns the bytes of an image file into pixels: one function for labeling and for training.

A stored label belongs to the pixels the teacher saw, so both phases must decode alike: which
formats are read, how orientation, alpha and depth are treated, and when an image is refused are
fixed here. `DECODER` records those choices in the identity of every label store.

Not known here: files, folders, crops.
"""

import io
import re
import warnings
from typing import Any, Literal

import numpy as np
import PIL
import torch
from PIL import Image, ImageFile, features
from torch import Tensor

from fkd.data.formats import FORMATS, openers
from fkd.errors import ImageError

Decoder = Literal["pillow", "simplejpeg"]

MAX_PIXELS = 1024**3 // 4 // 3
"""Largest image that is decoded, 89.5 million pixels: the limit at which Pillow starts to warn."""

DECODER: dict[str, Any] = {
    "library": "pillow",
    "version": PIL.__version__,
    "libjpeg_turbo": features.version("libjpeg_turbo"),
    "exif": "ignored",
    "icc": "ignored",
    "alpha": "dropped",
    "gray16": "divided by 257 and rounded",
    "color16": "high byte",
}

_LEAST_OF_16_BITS = 65536 // 8
"""Values of 16 bits that are all smaller are those of a camera with fewer bits, up to 13."""

_CONVERTED_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr"})
_GREY16_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})

_JPEG_XL = "a JPEG XL image; pip install pillow-jxl-plugin, or convert it to PNG or JPEG"

# Files that are often found in place of an image, by their first bytes (compared in lower case).
_NON_IMAGE_SIGNATURES = (
    (b"version https://git-lfs", "a Git LFS pointer; fetch the real file with `git lfs pull`"),
    (b"<!doctype html", "an HTML page, probably of a failed download; download it again"),
    (b"<html", "an HTML page, probably of a failed download; download it again"),
    (b"<?xml", "an XML or SVG document; convert it to PNG or JPEG"),
    (b"<svg", "an SVG drawing; convert it to PNG or JPEG"),
    (b"%pdf", "a PDF document; convert it to PNG or JPEG"),
    (b"%!ps", "a PostScript document; convert it to PNG or JPEG"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript document; convert it to PNG or JPEG"),
    (b"pk\x03\x04", "a ZIP archive; unpack it"),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
    (b"\xff\x0a", _JPEG_XL),
    (b"\0\0\0\x0cjxl ", _JPEG_XL),
    (b"\0\0\0\x0cjp  ", "a JPEG 2000 image; convert it to PNG or JPEG"),
)
_BLANKS = b"\xef\xbb\xbf \t\r\n"  # a byte order mark or white space before the document
_ISO_MEDIA = b"ftyp"  # at byte 4 of HEIC, AVIF and video files

_SILENCED = ("ignore", None, UserWarning, re.compile(r"PIL\."), 0)


def decode_image(data: bytes, name: str, decoder: Decoder = "pillow") -> Tensor:
    """Decode an image file to uint8 RGB (3, H, W); the memory is laid out height, width, channel.

    Pillow decides what the file is and whether it is acceptable, whichever decoder is used.

    The orientation in EXIF data is ignored, as torchvision and timm do (the orientation tag of a
    TIFF is part of that format and is applied). Alpha is dropped, without blending. Gray images of
    16 bits are divided by 257, and of colors of 16 bits the high byte is kept. Both are refused
    where all values are below an eighth of the range: 12 bits in such a file would look black. Safe
    to call from many threads.

    Two settings of the process change at the first call, because no thread-safe way is narrower:
    Pillow's `LOAD_TRUNCATED_IMAGES` is set to False, and its warnings about metadata are ignored.

    Args:
        data: the whole file.
        name: how error messages call the image.
        decoder: "simplejpeg" decodes ordinary JPEGs 1.3 times as fast; the pixels are mostly the
            same to the bit (see `fkd.data.decoders`), but not by promise.

    Raises:
        ImageError: the bytes are not one complete still image of a known format, have a pixel type
            or a range of values without an obvious meaning as RGB, or exceed `MAX_PIXELS`.
    """
    _prepare_pillow()
    try:
        with _open(data, name) as image:
            _refuse_unsuitable(image, name)
            is_wide = _has_wide_colors(image)
            pixels = _decode_jpeg(data, image) if decoder == "simplejpeg" else None
            if pixels is None:
                image.load()
                pixels = rgb_pixels(image, name)
            if is_wide:
                _refuse_dark_colors(pixels, name)
    except (ImageError, MemoryError):  # a lack of memory says nothing about the image
        raise
    except Exception as error:  # hostile bytes make Pillow raise nearly anything
        reason = str(error) or type(error).__name__
        raise ImageError(
            f"{name} is damaged or incomplete ({reason}); replace the file or remove it"
        ) from error
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ImageError(
            f"{name} was decoded while another part of the program set "
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES, which hides missing pixels; do not set it"
        )
    return torch.from_numpy(pixels).permute(2, 0, 1)


def rgb_pixels(image: Image.Image, name: str) -> np.ndarray:
    """The pixels of a Pillow image as a new uint8 array (H, W, 3); see `decode_image`.

    Raises:
        ImageError: the mode of the image has no obvious meaning as RGB.
    """
    if image.mode in _GREY16_MODES:
        return np.repeat(_gray16_to_8(np.asarray(image), name)[..., None], 3, axis=2)
    if image.mode in _CONVERTED_MODES:
        image = _without_transparency(image).convert("RGB")
    if image.mode != "RGB":
        raise ImageError(
            f"{name} has pixels of type {image.mode}, which is ambiguous as RGB; "
            "convert it to 8-bit RGB"
        )
    return np.array(image)


def _decode_jpeg(data: bytes, image: ImageFile.ImageFile) -> np.ndarray | None:
    """An ordinary JPEG as uint8 (H, W, 3), by simplejpeg; None where Pillow should decide: other
    formats, other colors, and damage, which Pillow may tolerate."""
    import simplejpeg

    if image.format != "JPEG" or image.mode not in ("RGB", "L"):
        return None
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError:
        return None
    return pixels


def _prepare_pillow() -> None:
    """Make Pillow strict about missing pixels, and ignore its warnings about metadata.

    Both settings belong to the process and other code may undo them, hence again for each image.
    `warnings.catch_warnings` would be undone by other threads, and each use makes Python forget
    which warnings were shown already.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    if warnings.filters[:1] != [_SILENCED]:  # in front, or a later "error" would win
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def _open(data: bytes, name: str) -> ImageFile.ImageFile:
    """Parse the header; opens the plugin itself, as `Image.open` warns of large images."""
    if not data:
        raise ImageError(f"{name} is empty (zero bytes); replace the file or remove it")
    for factory, accept in openers():
        if accept is None or accept(data[:16]) is True:
            image: ImageFile.ImageFile = factory(io.BytesIO(data), "")
            return image
    raise ImageError(f"{name} is {_describe_non_image(data)}")


def _describe_non_image(data: bytes) -> str:
    start = data[:512].lower()
    for prefix, description in _NON_IMAGE_SIGNATURES:
        if start.startswith(prefix) or start.lstrip(_BLANKS).startswith(prefix):
            return description
    if data[4:8] == _ISO_MEDIA:
        return (
            "a HEIC or AVIF image or a video; pip install pillow-heif, or convert it to PNG or JPEG"
        )
    return f"not an image of a known format ({', '.join(FORMATS)}); convert or remove it"


def _refuse_unsuitable(image: ImageFile.ImageFile, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} claims {width}x{height} pixels, more than the {MAX_PIXELS / 1e6:.1f} million "
            "that are decoded; make it smaller or remove it"
        )
    # The further images of an MPO (a camera's stereo pair or preview) are not its content.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise ImageError(
            f"{name} holds several frames or pages; save the one you mean as a file of its own"
        )


def _without_transparency(image: Image.Image) -> Image.Image:
    """The image without its transparent color, about which Pillow would otherwise warn."""
    if "transparency" not in image.info:
        return image
    image = image.copy()
    del image.info["transparency"]
    return image


def _gray16_to_8(gray: np.ndarray, name: str) -> np.ndarray:
    """Map 0..65535 to 0..255, rounding x / 257 to the nearest (a tie cannot occur)."""
    low, high = int(gray.min()), int(gray.max())
    if low < 0 or high > 65535:
        raise ImageError(
            f"{name} has gray values from {low} to {high}, which do not fit 16 bits; "
            "convert it to 8-bit RGB"
        )
    if 0 < high < _LEAST_OF_16_BITS:  # a frame that is black stays black in every range
        raise ImageError(
            f"{name} has gray values from {low} to {high} in a file of 16 bits, which would become "
            f"nearly black; scale them to 0 to 65535 (times {65535 // high}), or to 8 bits"
        )
    return ((gray.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _has_wide_colors(image: ImageFile.ImageFile) -> bool:
    """Whether an image that is not loaded yet has colors of more than 8 bits, of which Pillow will
    keep the high byte."""
    if image.mode in _GREY16_MODES:
        return False
    for tile in image.tile:
        args = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if any(isinstance(arg, str) and ";16" in arg for arg in args):
            return True
        if tile[0] in ("ppm", "ppm_plain") and args[1] > 255:
            return True
    return False


def _refuse_dark_colors(pixels: np.ndarray, name: str) -> None:
    """Refuse colors of 16 bits that use less than an eighth of their range."""
    high = int(pixels.max())
    if high <= _LEAST_OF_16_BITS // 256:  # Pillow rounds those of a PPM
        raise ImageError(
            f"{name} has colors up to about {high * 256 + 255} in a file of 16 bits, which would "
            "become nearly black; scale them to 0 to 65535, or to 8 bits"
        )
