"""Objects that are no data sets of images, have none, or do not give them."""

import pytest
from PIL import Image
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder

from fkd.data.sources import as_source
from fkd.errors import ConfigError, ImageError


@pytest.mark.parametrize("thing", [3, None, {0: Image.new("RGB", (1, 1))}, {1, 2}, iter([])])
def test_what_is_no_data_set_is_refused(thing):
    with pytest.raises(ConfigError, match=rf"a {type(thing).__name__} is not a data set"):
        as_source(thing)


@pytest.mark.parametrize("kind", [list, ImageFolder])
def test_no_image_is_refused(kind, tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (1, 1)).save(tmp_path / "a" / "1.png")
    dataset = [] if kind is list else kind(tmp_path)
    with pytest.raises(ConfigError, match=rf"a Subset of {kind.__name__} names no image"):
        as_source(Subset(dataset, []))
    if not dataset:
        with pytest.raises(ConfigError, match=r"the data set list has no images"):
            as_source(dataset)


@pytest.mark.parametrize("error", [KeyError("x"), OSError("gone"), RuntimeError("broken\nso")])
def test_what_a_data_set_raises_is_an_unreadable_image(error):
    class Broken(list):
        def __getitem__(self, i):
            raise error

    source = as_source(Broken([None]))
    with pytest.raises(ImageError, match=r"image 0 of Broken cannot be read \(.*(x|gone|broken)"):
        source.read(0)
