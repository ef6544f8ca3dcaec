"""Every kind of image file becomes exactly the expected array, or one sentence that names it."""

import contextlib
import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torchvision.datasets.folder import default_loader

from fkd.data import decode
from fkd.data.decode import DECODER, decode_image, rgb_pixels
from fkd.errors import ImageError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
GREY16 = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)


def encode(image, file_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def decode_hwc(data, name="x.png"):
    return decode_image(data, name).permute(1, 2, 0).numpy()


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width, height, depth=8, color=2):
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)


def raw_png(width, height, depth, color, scanlines):
    body = zlib.compress(b"".join(b"\0" + line for line in scanlines))
    return (
        png_header(width, height, depth, color) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")
    )


def photo_jpeg(size=(64, 48), **options):
    smooth = np.linspace(0, 255, size[0] * size[1] * 3).reshape(size[1], size[0], 3)
    return encode(Image.fromarray(smooth.astype(np.uint8)), "JPEG", **options)


def with_orientation(file_format, orientation, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(Image.fromarray(COLOUR), file_format, exif=exif, **options)


class TestExactPixels:
    @pytest.mark.parametrize("file_format", ["PNG", "BMP", "PPM", "TIFF"])
    def test_color_is_kept(self, file_format):
        data = encode(Image.fromarray(COLOUR), file_format)
        np.testing.assert_array_equal(decode_hwc(data), COLOUR)

    def test_result_is_writable_uint8_with_channels_innermost(self):
        image = decode_image(encode(Image.fromarray(COLOUR), "PNG"), "x.png")
        assert image.dtype == torch.uint8
        assert image.shape == (3, 5, 7)
        assert image.stride() == (1, 21, 3)
        image.zero_()

    def test_jpeg_and_lossless_webp_equal_torchvisions_loader(self, tmp_path):
        for file_format, data in {
            "jpg": photo_jpeg(quality=80),
            "webp": encode(Image.fromarray(COLOUR), "WEBP", lossless=True),
        }.items():
            file = tmp_path / f"x.{file_format}"
            file.write_bytes(data)
            np.testing.assert_array_equal(decode_hwc(data), np.array(default_loader(str(file))))

    def test_gray_is_repeated(self):
        data = encode(Image.fromarray(GREY), "PNG")
        np.testing.assert_array_equal(decode_hwc(data), np.stack([GREY] * 3, -1))

    @pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP", "PPM"])
    def test_one_bit_is_black_and_white(self, file_format):
        bits = GREY > 127
        data = encode(Image.fromarray(bits), file_format)
        np.testing.assert_array_equal(decode_hwc(data), np.stack([bits * 255] * 3, -1))

    @pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
    def test_sixteen_bit_gray_is_divided_by_257_not_clipped(self, file_format):
        data = encode(Image.fromarray(GREY16), file_format)
        expected = np.round(GREY16 / 257).astype(np.uint8)
        np.testing.assert_array_equal(decode_hwc(data), np.stack([expected] * 3, -1))

    def test_sixteen_bit_gray_ends_map_to_the_ends(self):
        ends = np.array([[0, 128, 129, 65406, 65407, 65535]], dtype=np.uint16)
        data = encode(Image.fromarray(ends), "PNG")
        assert decode_hwc(data)[0, :, 0].tolist() == [0, 0, 1, 254, 255, 255]

    def test_big_endian_sixteen_bit_tiff(self):
        body = GREY16.astype(">u2").tobytes()
        tags = [(256, 3, 7), (257, 3, 5), (258, 3, 16), (259, 3, 1), (262, 3, 1)]
        tags += [(273, 4, 8), (277, 3, 1), (278, 3, 5), (279, 4, len(body))]
        entries = b"".join(
            struct.pack(">HHI", tag, kind, 1) + struct.pack(">HH" if kind == 3 else ">I", *v)
            for tag, kind, value in tags
            for v in [(value, 0) if kind == 3 else (value,)]
        )
        directory = struct.pack(">H", len(tags)) + entries + b"\0\0\0\0"
        data = b"MM\0\x2a" + struct.pack(">I", 8 + len(body)) + body + directory
        expected = np.round(GREY16 / 257).astype(np.uint8)
        np.testing.assert_array_equal(decode_hwc(data)[..., 0], expected)

    def test_sixteen_bit_pgm(self):
        data = b"P5\n7 5\n65535\n" + GREY16.astype(">u2").tobytes()
        expected = np.round(GREY16 / 257).astype(np.uint8)
        np.testing.assert_array_equal(decode_hwc(data)[..., 0], expected)

    def test_sixteen_bit_color_png_keeps_the_high_byte(self):
        wide = RNG.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
        data = raw_png(7, 5, 16, 2, [line.astype(">u2").tobytes() for line in wide])
        np.testing.assert_array_equal(decode_hwc(data), (wide >> 8).astype(np.uint8))

    def test_palette(self):
        image = Image.fromarray(GREY % 4).convert("P")
        image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
        palette = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [100, 110, 120]])
        for file_format in ("PNG", "BMP", "TIFF", "GIF"):
            np.testing.assert_array_equal(decode_hwc(encode(image, file_format)), palette[GREY % 4])

    @pytest.mark.parametrize("transparency", [1, bytes([0, 255, 128, 0])])
    def test_palette_transparency_is_dropped_not_blended(self, transparency):
        image = Image.fromarray(GREY % 4).convert("P")
        image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
        palette = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]])
        data = encode(image, "PNG", transparency=transparency)
        np.testing.assert_array_equal(decode_hwc(data), palette[GREY % 4])

    @pytest.mark.parametrize("image", [Image.fromarray(GREY), Image.fromarray(COLOUR)])
    def test_transparent_color_of_png_is_ignored(self, image):
        color = int(GREY[0, 0]) if image.mode == "L" else tuple(map(int, COLOUR[0, 0]))
        plain = decode_hwc(encode(image, "PNG"))
        np.testing.assert_array_equal(decode_hwc(encode(image, "PNG", transparency=color)), plain)

    def test_alpha_is_dropped_not_blended(self):
        gray_alpha = Image.fromarray(np.stack([GREY, ALPHA], -1))
        color_alpha = Image.fromarray(np.concatenate([COLOUR, ALPHA[..., None]], -1))
        assert (gray_alpha.mode, color_alpha.mode) == ("LA", "RGBA")
        for file_format in ("PNG", "TIFF"):
            expected = np.stack([GREY] * 3, -1)
            np.testing.assert_array_equal(decode_hwc(encode(gray_alpha, file_format)), expected)
            np.testing.assert_array_equal(decode_hwc(encode(color_alpha, file_format)), COLOUR)

    def test_cmyk_tiff(self):
        cmyk = np.array(
            [[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255], [0, 255, 255, 0]]], np.uint8
        )
        data = encode(cmyk_image(cmyk), "TIFF")
        expected = [[255, 255, 255], [0, 255, 255], [0, 0, 0], [255, 0, 0]]
        assert decode_hwc(data)[0].tolist() == expected

    def test_cmyk_jpeg_of_adobe_is_not_inverted(self):
        """Adobe stores inverted ink; read naively, a white page turns black."""
        cmyk = np.zeros((16, 16, 4), np.uint8)
        cmyk[:, 8:, 3] = 255
        data = encode(cmyk_image(cmyk), "JPEG", quality=100)
        assert b"Adobe" in data
        pixels = decode_hwc(data).astype(int)
        assert pixels[:, :8].min() > 250
        assert pixels[:, 8:].max() < 5

    def test_smallest_and_thinnest(self):
        assert decode_hwc(encode(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG")).tolist() == [
            [[1, 2, 3]]
        ]
        thin = RNG.integers(0, 256, (1, 10000, 3), dtype=np.uint8)
        np.testing.assert_array_equal(decode_hwc(encode(Image.fromarray(thin), "PNG")), thin)
        tall = np.ascontiguousarray(thin.transpose(1, 0, 2))
        np.testing.assert_array_equal(decode_hwc(encode(Image.fromarray(tall), "PNG")), tall)

    def test_wrong_extension_does_not_matter(self):
        data = encode(Image.fromarray(COLOUR), "PNG")
        np.testing.assert_array_equal(decode_hwc(data, "photo.jpg"), COLOUR)

    def test_still_gif(self):
        image = Image.fromarray(GREY % 8).convert("P")
        image.putpalette(list(range(24)))
        expected = np.arange(24).reshape(8, 3)[GREY % 8]
        np.testing.assert_array_equal(decode_hwc(encode(image, "GIF")), expected)

    def test_mpo_gives_its_first_picture(self):
        first = Image.fromarray(np.full((8, 8, 3), 200, np.uint8))
        second = Image.fromarray(np.full((8, 8, 3), 20, np.uint8))
        data = encode(first, "MPO", save_all=True, append_images=[second])
        assert abs(decode_hwc(data).astype(int) - 200).max() <= 2


def cmyk_image(pixels):
    height, width, _ = pixels.shape
    return Image.frombytes("CMYK", (width, height), pixels.tobytes())


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation_is_ignored(self, orientation):
        for file_format, options in (("PNG", {}), ("WEBP", {"lossless": True})):
            data = with_orientation(file_format, orientation, **options)
            np.testing.assert_array_equal(decode_hwc(data), COLOUR)
        jpeg = with_orientation("JPEG", orientation)
        np.testing.assert_array_equal(decode_hwc(jpeg), decode_hwc(with_orientation("JPEG", 1)))

    def test_orientation_tag_of_a_tiff_is_applied(self):
        data = encode(Image.fromarray(COLOUR), "TIFF", tiffinfo={0x0112: 6})
        np.testing.assert_array_equal(decode_hwc(data), np.rot90(COLOUR, -1))

    def test_policy_is_part_of_the_decoders_identity(self):
        assert DECODER["exif"] == "ignored"
        assert DECODER["alpha"] == "dropped"
        assert DECODER["version"]


class TestRefusals:
    """One sentence with the file's name and what to do."""

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (b"", "empty"),
            (b"\0" * 1000, "not an image"),
            (b"just text", "not an image"),
            (b"<!DOCTYPE html><html><body>404</body></html>", "HTML page"),
            (b"\n  <html lang='en'>", "HTML page"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n",
                "git lfs pull",
            ),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "PostScript"),
            (b"\xc5\xd0\xd3\xc6" + b"\0" * 30, "PostScript"),
            (b"%PDF-1.7\n", "PDF"),
            (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
            (b"<svg></svg>", "SVG"),
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
            (b"\0\0\0\x20ftypisom" + b"\0" * 20, "video"),
            (b"\xff\x0a" + b"\0" * 20, "JPEG XL"),
            (b"PK\x03\x04" + b"\0" * 20, "ZIP"),
            (b"\x1f\x8b\x08" + b"\0" * 20, "gzip"),
        ],
    )
    def test_not_an_image(self, data, words):
        with pytest.raises(ImageError, match=words) as caught:
            decode_image(data, "folder/cat.png")
        assert str(caught.value).startswith("folder/cat.png is ")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
    @pytest.mark.parametrize("tenths", range(1, 10))
    def test_truncated(self, file_format, tenths):
        noise = Image.fromarray(RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8))
        data = encode(noise, file_format)
        with pytest.raises(ImageError, match=r"cut\.img is (damaged|not an image)"):
            decode_image(data[: len(data) * tenths // 10], "cut.img")

    def test_truncated_even_if_another_library_asked_for_leniency(self, monkeypatch):
        """With the flag, Pillow fills the missing part with gray and says nothing."""
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        data = photo_jpeg()
        with pytest.raises(ImageError, match="truncated"):
            decode_image(data[: len(data) * 9 // 10], "cut.jpg")
        assert decode_image(data, "whole.jpg").shape == (3, 48, 64)

    def test_leniency_switched_on_during_decoding_is_noticed(self, monkeypatch):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)

        def meddle(image, name):
            ImageFile.LOAD_TRUNCATED_IMAGES = True
            return rgb_pixels(image, name)

        monkeypatch.setattr(decode, "rgb_pixels", meddle)
        with pytest.raises(ImageError, match="LOAD_TRUNCATED_IMAGES"):
            decode_image(photo_jpeg(), "x.jpg")

    def test_corrupt_png_is_found_by_its_checksum(self):
        data = bytearray(encode(Image.fromarray(COLOUR), "PNG"))
        data[data.index(b"IDAT") + 12] ^= 1
        with pytest.raises(ImageError, match="damaged"):
            decode_image(bytes(data), "x.png")

    @pytest.mark.drill("G6", "damaged image files", failing="untyped")
    def test_random_damage_never_escapes_as_another_error(self, drill):
        formats = ("PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "AVIF", "JPEG2000")
        files = [encode(Image.fromarray(COLOUR), f) for f in formats if f in Image.SAVE]
        files += [photo_jpeg(), with_orientation("JPEG", 6), encode(Image.fromarray(GREY16), "PNG")]
        times = drill.times(40, goal=10_000)
        for data in files:
            for _ in range(times):
                broken = bytearray(data)
                for position in RNG.integers(0, len(data), 3):
                    broken[position] = RNG.integers(0, 256)
                with contextlib.suppress(ImageError):
                    decode_image(bytes(broken), "x")
        drill.tried(times * len(files))

    @pytest.mark.parametrize(("width", "height"), [(20000, 20000), (65500, 65500), (10000, 9000)])
    def test_decompression_bomb_is_refused_by_its_header(self, width, height):
        data = png_header(width, height) + png_chunk(b"IDAT", zlib.compress(b"\0" * 10**6))
        with pytest.raises(ImageError, match=f"claims {width}x{height} pixels"):
            decode_image(data, "bomb.png")

    @pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
    def test_animation_and_pages(self, file_format):
        frames = [Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)]
        data = encode(frames[0], file_format, save_all=True, append_images=frames[1:])
        with pytest.raises(ImageError, match="several frames"):
            decode_image(data, "moving.img")

    @pytest.mark.parametrize(
        "image", [Image.fromarray(GREY.astype(np.float32)), Image.fromarray(COLOUR).convert("LAB")]
    )
    def test_types_without_an_obvious_meaning(self, image):
        with pytest.raises(ImageError, match=f"x.tif has pixels of type {image.mode}"):
            decode_image(encode(image, "TIFF"), "x.tif")

    @pytest.mark.parametrize("value", [-1, 65536, 2**31 - 1])
    def test_integers_beyond_sixteen_bits(self, value):
        data = encode(Image.fromarray(np.array([[0, value]], np.int32)), "TIFF")
        with pytest.raises(ImageError, match="do not fit 16 bits"):
            decode_image(data, "x.tif")

    def test_lack_of_memory_is_not_blamed_on_the_image(self, monkeypatch):
        def fail(image, name):
            raise MemoryError

        monkeypatch.setattr(decode, "rgb_pixels", fail)
        with pytest.raises(MemoryError):
            decode_image(photo_jpeg(), "x.jpg")


class TestQuiet:
    def test_odd_metadata_gives_no_warning(self, recwarn):
        """Warnings are errors in these tests, and would make Pillow fail on a good image."""
        exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x1a\x01\x05\0\xff\0\0\0\xff\xff\0\0"
        broken = photo_jpeg(exif=exif)
        assert torch.equal(decode_image(broken, "x.jpg"), decode_image(photo_jpeg(), "x.jpg"))
        warnings.simplefilter("always")
        decode_image(broken, "x.jpg")
        assert not recwarn.list

    def test_filter_is_installed_once(self):
        with warnings.catch_warnings():
            decode_image(photo_jpeg(), "x.jpg")
            before = len(warnings.filters)
            decode_image(photo_jpeg(), "x.jpg")
            assert len(warnings.filters) == before

    def test_many_threads_agree(self):
        files = [photo_jpeg(size=(40 + i, 30)) for i in range(8)] * 8
        expected = [decode_image(data, "x") for data in files]
        with ThreadPoolExecutor(8) as pool:
            images = list(pool.map(lambda data: decode_image(data, "x"), files))
        assert all(torch.equal(a, b) for a, b in zip(images, expected, strict=True))
