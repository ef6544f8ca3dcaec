"""Which decoder to read images with: the fastest one that gives the pixels of the labels.

Labels are made with Pillow. The package simplejpeg (extra `fast`) wraps the same libjpeg-turbo, is
faster, and normally gives the same pixels; whether it does is measured on the user's images before
training relies on it.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import numpy as np

from fkd.data.decode import Decoder
from fkd.data.sources import ImageSource, load, spread_images
from fkd.errors import ConfigError, ImageError

DecoderChoice = Literal["auto", "pillow", "simplejpeg"]
_SAMPLED = 16  # images that are decoded twice, some 60 ms


@dataclass(frozen=True)
class DecoderReport:
    """A decoder, and how its pixels compare with Pillow's.

    Attributes:
        decoder: the one to use.
        num: images that both decoded.
        num_equal: images of which all pixels are equal.
        mean_difference: mean absolute difference over all their pixels, gray levels.
    """

    decoder: Decoder
    num: int = 0
    num_equal: int = 0
    mean_difference: float = 0.0

    def __str__(self) -> str:
        if self.num == 0:
            return self.decoder
        equal = f"{self.num_equal} of {self.num} images with exactly the pixels of pillow"
        if self.num_equal == self.num:
            return f"{self.decoder} ({equal})"
        return f"{self.decoder} ({equal}, mean difference {self.mean_difference:.2g} gray levels)"


def choose_decoder(source: ImageSource, choice: DecoderChoice = "auto") -> DecoderReport:
    """The decoder for these images, by the setting `decoder`.

    "auto" is simplejpeg if it is installed and a sample of the images, spread over the source,
    decodes to exactly the same pixels, else Pillow. An explicit choice is kept, and its difference
    is measured too. Unreadable images are skipped here.

    Raises:
        ConfigError: simplejpeg is chosen and not installed.
    """
    installed = find_spec("simplejpeg") is not None
    if choice == "simplejpeg" and not installed:
        raise ConfigError("decoder: simplejpeg is not installed; pip install 'fkd[fast]'")
    if choice == "pillow" or not installed:
        return DecoderReport("pillow")
    differences = [
        difference
        for i in spread_images(source, _SAMPLED)
        if (difference := _difference(source, i)) is not None
    ]
    num_equal = sum(difference == 0.0 for difference in differences)
    mean = float(np.mean(differences)) if differences else 0.0
    exact = 0 < num_equal == len(differences)  # no image is no evidence
    decoder: Decoder = "simplejpeg" if exact or choice == "simplejpeg" else "pillow"
    return DecoderReport(decoder, len(differences), num_equal, mean)


def _difference(source: ImageSource, i: int) -> float | None:
    """Mean absolute difference of the two decoders, gray levels; None if one refuses the image."""
    try:
        ours, theirs = load(source, i, "simplejpeg").image, load(source, i, "pillow").image
    except ImageError:
        return None
    if ours.shape != theirs.shape:
        return 255.0
    return float((ours.int() - theirs.int()).abs().double().mean())
