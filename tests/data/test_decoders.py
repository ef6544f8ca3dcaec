"""The choice of a decoder: never one that changes the pixels, unless it was asked for."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from fkd.data import decoders
from fkd.data.decode import decode_image
from fkd.data.decoders import choose_decoder
from fkd.data.sources import ImagesConfig, open_source
from fkd.errors import ConfigError, ImageError

PHOTO = load_sample_image("china.jpg")


def encode(mode, kind="JPEG", **options):
    file = io.BytesIO()
    Image.fromarray(PHOTO[:200, :301]).convert(mode).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_both_decoders_give_the_same_pixels_of_a_photograph(subsampling, progressive):
    data = encode("RGB", quality=85, subsampling=subsampling, progressive=progressive)
    fast = decode_image(data, "x", "simplejpeg")
    assert torch.equal(fast, decode_image(data, "x"))
    assert fast.permute(1, 2, 0).is_contiguous()


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("P", "GIF")]
)
def test_every_other_kind_of_file_is_decoded_alike(mode, kind):
    data = encode(mode, kind)
    assert torch.equal(decode_image(data, "x", "simplejpeg"), decode_image(data, "x"))


def test_orientation_is_ignored_by_both():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode("RGB", exif=exif)
    assert torch.equal(decode_image(data, "x", "simplejpeg"), decode_image(data, "x"))


def test_what_pillow_forgives_is_forgiven():
    """A student must not stumble over an image that was labeled."""
    data = encode("RGB")
    broken = data[:5000] + bytes(range(4)) * 500 + data[7000:]
    assert torch.equal(decode_image(broken, "x", "simplejpeg"), decode_image(broken, "x"))


def test_the_fast_decoder_is_an_extra(photographs, monkeypatch):
    monkeypatch.setattr(decoders, "find_spec", lambda name: None)
    assert choose_decoder(photographs).decoder == "pillow"
    with pytest.raises(ConfigError, match=r"pip install 'fkd\[fast\]'"):
        choose_decoder(photographs, "simplejpeg")


def test_the_fast_decoder_refuses_a_truncated_file_by_name():
    with pytest.raises(ImageError, match=r"cut\.jpg is damaged or incomplete"):
        decode_image(encode("RGB")[:-2000], "cut.jpg", "simplejpeg")


@pytest.fixture
def photographs(tmp_path):
    for i in range(20):
        Image.fromarray(np.roll(PHOTO[:64, :96], i, axis=1)).save(tmp_path / f"{i:02}.jpg")
    (tmp_path / "19.jpg").write_bytes(b"no image")
    return open_source(ImagesConfig(root=str(tmp_path)))


def test_the_fast_decoder_is_chosen_where_it_gives_the_same_pixels(photographs):
    report = choose_decoder(photographs)
    assert report.decoder == "simplejpeg"
    assert str(report) == "simplejpeg (15 of 15 images with exactly the pixels of pillow)"


def test_other_pixels_are_told_and_chosen_on_request_alone(photographs, monkeypatch):
    def brighter(source, i, decoder):
        loaded = original(source, i, decoder)
        loaded.image[0, 0, 0] += decoder == "simplejpeg" and i == 0
        return loaded

    original = decoders.load
    monkeypatch.setattr(decoders, "load", brighter)
    automatic, forced = choose_decoder(photographs), choose_decoder(photographs, "simplejpeg")
    assert (automatic.decoder, forced.decoder) == ("pillow", "simplejpeg")
    assert forced.num_equal == 14
    assert "14 of 15 images with exactly the pixels of pillow, mean difference" in str(forced)


def test_without_a_readable_image_there_is_no_evidence_for_the_fast_decoder(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    broken = open_source(ImagesConfig(root=str(tmp_path)))
    assert choose_decoder(broken).decoder == "pillow"


def test_pillow_needs_no_comparison(photographs):
    assert str(choose_decoder(photographs, "pillow")) == "pillow"
