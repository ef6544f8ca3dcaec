"""Nearest neighbors among validation images, while a student of embeddings is trained."""

import pytest
import torch
from torch import nn

from fkd.data.subset import SubsetSource
from fkd.errors import ConfigError
from fkd.evaluation.accuracy import LabeledImages
from fkd.evaluation.neighbors import measure_neighbors, require_halves
from fkd.models.architectures.embedders import Embedder, NoHead
from fkd.models.preprocessing import Preprocessing

LOOKS = Preprocessing(
    input_size=16, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0
)


class Colors(nn.Module):
    """Mean colors of an image, by which the classes of the test images differ; or noise."""

    num_features = 3

    def __init__(self, tells: bool) -> None:
        super().__init__()
        self.tells = tells

    def forward(self, images):
        return images.mean((2, 3)) if self.tells else torch.ones(len(images), 3)


@pytest.fixture
def images(image_source) -> LabeledImages:
    return LabeledImages.match(image_source, image_source.class_names)


def measure(images, tells) -> float:
    model = Embedder(Colors(tells), NoHead(3))
    device = torch.device("cpu")
    return measure_neighbors(model, images, LOOKS, device=device, num_workers=1)


def test_features_that_tell_the_classes_apart_have_neighbors_of_their_class(images):
    assert measure(images, tells=True) == 100.0


def test_features_that_tell_nothing_are_as_good_as_one_class_for_all(images):
    assert measure(images, tells=False) == pytest.approx(100.0 / 3, abs=10.0)


def test_a_single_image_has_no_neighbor(image_source):
    one = SubsetSource(image_source, [3])
    with pytest.raises(ConfigError, match="has a single labeled image"):
        require_halves(LabeledImages.match(one, image_source.class_names))
