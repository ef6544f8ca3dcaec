"""Images of 16 bits: full ranges are converted, those of a camera with fewer bits refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fkd.data.decode import decode_image
from fkd.errors import ImageError

COLOR = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def encode(image, file_format):
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


def decode_hwc(data):
    return decode_image(data, "x.img").permute(1, 2, 0).numpy()


def wide_png(pixels, color):
    """A PNG of 16 bits from uint16 (H, W) or (H, W, channels)."""

    def chunk(kind, body):
        checksum = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    height, width = pixels.shape[:2]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def wide_ppm(pixels):
    height, width = pixels.shape[:2]
    kind = 6 if pixels.ndim == 3 else 5
    return b"P%d\n%d %d\n65535\n" % (kind, width, height) + pixels.astype(">u2").tobytes()


def gray_of(bits):
    values = np.random.default_rng(bits).integers(0, 2**bits, (5, 7), dtype=np.uint16)
    values[0, 0] = 2**bits - 1
    return values


class TestFewBitsInSixteen:
    """12 bits of a camera in a file of 16 would become nearly black, in silence."""

    ENCODERS = {  # noqa: RUF012 - a table
        "PNG": lambda gray: wide_png(gray, 0),
        "TIFF": lambda gray: encode(Image.fromarray(gray), "TIFF"),
        "TIFF of 32 bits": lambda gray: encode(Image.fromarray(gray.astype(np.int32)), "TIFF"),
        "PGM": wide_ppm,
        "PNG of colors": lambda gray: wide_png(np.stack([gray] * 3, -1), 2),
        "PNG of colors and alpha": lambda gray: wide_png(np.stack([gray] * 4, -1), 6),
        "PNG of gray and alpha": lambda gray: wide_png(np.stack([gray] * 2, -1), 4),
        "PPM of colors": lambda gray: wide_ppm(np.stack([gray] * 3, -1)),
    }

    @pytest.mark.parametrize("kind", ENCODERS)
    @pytest.mark.parametrize("bits", [8, 10, 12, 13])
    def test_are_refused_with_their_range(self, kind, bits):
        with pytest.raises(
            ImageError, match=r"x\.img has .* in a file of 16 bits.* scale them"
        ) as e:
            decode_image(self.ENCODERS[kind](gray_of(bits)), "x.img")
        if "color" not in kind and "alpha" not in kind:
            assert f" to {2**bits - 1} in" in str(e.value)

    @pytest.mark.parametrize("kind", ENCODERS)
    @pytest.mark.parametrize("bits", [14, 16])
    def test_more_bits_are_converted(self, kind, bits):
        gray = gray_of(bits)
        pixels = decode_hwc(self.ENCODERS[kind](gray))[..., 0].astype(int)
        assert abs(pixels - gray / 257).max() <= 1

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "TIFF of 32 bits", "PGM"])
    def test_a_black_frame_is_black(self, kind):
        black = np.zeros((5, 7), np.uint16)
        assert decode_hwc(self.ENCODERS[kind](black)).max() == 0

    def test_a_pgm_that_names_its_range_is_scaled(self):
        gray = gray_of(12)
        data = b"P5\n7 5\n4095\n" + gray.astype(">u2").tobytes()
        pixels = decode_hwc(data)[..., 0].astype(int)
        assert abs(pixels - gray / 4095 * 255).max() <= 1

    def test_eight_bits_may_be_dark(self):
        dark = Image.fromarray(COLOR // 64)
        for file_format in ("PNG", "TIFF", "PPM", "BMP"):
            np.testing.assert_array_equal(decode_hwc(encode(dark, file_format)), COLOR // 64)
