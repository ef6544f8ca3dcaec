"""The projection is the specification's to the last bit, and keeps inner products on average."""

import hashlib
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from fkd.errors import TeacherError
from fkd.labels.projection import Projection

FORMAT = Path(__file__).parents[2] / "docs" / "format.md"


@pytest.fixture(scope="module")
def specified() -> dict:
    """The functions that docs/format.md defines; they use nothing of fkd."""
    names: dict = {}
    for source in re.findall(r"```python\n(.*?)```", FORMAT.read_text(), re.DOTALL):
        exec(source, names)
    return names


@pytest.mark.parametrize(("num_features", "dims", "seed"), [(5, 3, 0), (70, 33, -2), (64, 64, 9)])
def test_the_matrix_is_that_of_the_specification(specified, num_features, dims, seed):
    matrix = Projection(num_features, dims, seed).matrix()
    assert matrix.dtype == np.float32
    expected = specified["projection_matrix"](seed, num_features, dims)
    np.testing.assert_array_equal(matrix, np.array(expected, np.float32))


def test_the_matrix_never_changes():
    digest = hashlib.sha256(Projection(300, 128, 5).matrix().tobytes()).hexdigest()
    assert digest == "2ff85a2ef87a300661ea23df86480c8e04f50d6e545a49bb8e1a49f820ac6cff"


def test_inner_products_are_kept_on_average():
    """Mean and variance over 400 seeds of <xR, yR>, against what theory says of signs."""
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(2, 96))
    y = 0.5 * x + y
    dims, num = 16, 400
    matrices = [Projection(96, dims, seed).matrix().astype(np.float64) for seed in range(num)]
    products = np.array([(x @ matrix) @ (y @ matrix) for matrix in matrices])
    variance = ((x @ x) * (y @ y) + (x @ y) ** 2 - 2 * (x**2 @ y**2)) / dims
    assert abs(products.mean() - x @ y) < 4 * math.sqrt(variance / num)
    assert products.var() == pytest.approx(variance, rel=0.3)


@pytest.mark.parametrize("dims", [128, 256])
def test_distances_are_kept_as_johnson_and_lindenstrauss_say(dims):
    """All of 435 squared distances within 1 +- eps, with eps^2 / 4 - eps^3 / 6 = 2 log(n) / D'."""
    points = torch.randn(30, 2048, generator=torch.Generator().manual_seed(1))
    before, after = (torch.pdist(z).square() for z in (points, Projection(2048, dims, 0)(points)))
    eps = max(
        r for r in np.linspace(0, 1.5, 1501) if r**2 / 4 - r**3 / 6 <= 2 * math.log(30) / dims
    )
    assert (after / before - 1).abs().max() < eps
    assert float((after / before).mean()) == pytest.approx(1.0, abs=0.05)


def test_projecting_is_a_product_with_the_matrix():
    projection = Projection(40, 8, 3)
    features = torch.randn(6, 40, generator=torch.Generator().manual_seed(2))
    expected = features.double().numpy() @ projection.matrix().astype(np.float64)
    np.testing.assert_allclose(projection(features), expected, atol=1e-5)
    assert projection(features).dtype == torch.float32


def test_features_of_another_number_are_refused():
    with pytest.raises(TeacherError, match="takes 40 features, and the teacher gives 41"):
        Projection(40, 8, 3)(torch.zeros(2, 41))
