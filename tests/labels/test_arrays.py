"""Decoding without torch gives what decoding with it gives."""

import numpy as np
import pytest
import torch

from fkd.labels.arrays import decode_array, entropies
from fkd.labels.codec_names import parse_codec
from fkd.labels.codecs import decode
from fkd.labels.encoded import Encoded

C = 7
NAMES = ["full", "hard", "smoothing", "ms:3", "mr:3", "ms:7", "logits", "logits:3", "logits:7"]
NAMES += ["sigmoid", "sigmoid:3", "sigmoid:7"]


def outputs(codec, shape):
    logits = 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    return logits if codec.encodes == "logits" else torch.softmax(logits, -1)


@pytest.mark.parametrize("name", [*NAMES, "top:3"])
def test_every_codec(name):
    codec = parse_codec(name)
    encoded = codec.encode(outputs(codec, (11, C)))
    expected = decode(codec, encoded, C)
    np.testing.assert_allclose(decode_array(codec, encoded, C), expected, atol=2e-7)


@pytest.mark.parametrize(
    "name", ["full*2", "ms:3*3", "hard*2", "logits:2*2", "sigmoid:2*2", "sigmoid*2"]
)
def test_several_teachers(name):
    codec = parse_codec(name)
    encoded = codec.encode(outputs(codec, (11, codec.count, C)))
    expected = decode(codec, encoded, C)
    np.testing.assert_allclose(decode_array(codec, encoded, C), expected, atol=2e-7)


@pytest.mark.parametrize("name", ["full", "ms:3", "mr:3"])
@pytest.mark.parametrize("value", [0.0, 0.9])
def test_rounded_values(name, value):
    """Sums of 0 and above 1."""
    codec = parse_codec(name)
    shape = (2, codec.num_values(C))
    ids = None if name == "full" else np.tile(np.arange(3), (2, 1))
    encoded = Encoded(ids, np.full(shape, value, np.float32))
    expected = decode(codec, encoded, C)
    np.testing.assert_allclose(decode_array(codec, encoded, C), expected, atol=2e-7)


def test_entropies():
    np.testing.assert_allclose(entropies(np.array([[0.5, 0.5], [1.0, 0.0]])), [np.log(2), 0.0])
