"""Embeddings of several teachers side by side: none drowns another."""

import numpy as np
import pytest
import torch
from torch import nn

from fkd.errors import ConfigError
from fkd.models.ensemble import Standardization, TeacherEnsemble
from fkd.models.preprocessing import Preprocessing
from fkd.models.single_teacher import Teacher


class Columns(nn.Module):
    """Mean colors, times random numbers: embeddings of any width and size."""

    def __init__(self, width, size, seed):
        super().__init__()
        self.layer = nn.Linear(3, width)
        torch.manual_seed(seed)
        nn.init.normal_(self.layer.weight, std=size)

    def forward(self, images):
        return self.layer(images.mean((2, 3)))


def embedding_teacher(width, size=1.0, side=8, weight=1.0, output="features"):
    preprocessing = Preprocessing(
        input_size=side, interpolation="bilinear", mean=(0.5,) * 3, std=(0.2,) * 3, crop_pct=1.0
    )
    return Teacher(
        Columns(width, size, width),
        name=f"columns{width}",
        preprocessing=preprocessing,
        class_names=[str(i) for i in range(width)],
        weight=weight,
        output=output,
    )


def crops(side, count=40):
    generator = torch.Generator().manual_seed(side)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def test_rows_are_the_standardized_parts_one_after_the_other():
    first, second = embedding_teacher(4), embedding_teacher(6, side=9, weight=3.0)
    ensemble = TeacherEnsemble([first, second])
    assert ensemble.class_names == [str(i) for i in range(10)]
    views = [crops(8), crops(9)]
    found = ensemble.standardized([Standardization(0.5, 2.0), Standardization(-1.0, 4.0)])
    parts = [
        (first.logits(views[0]) - 0.5) / 2.0 * np.sqrt(0.25),
        (second.logits(views[1]) + 1.0) / 4.0 * np.sqrt(0.75),
    ]
    torch.testing.assert_close(found.logits(views), torch.cat(parts, dim=1))
    assert [t["standardization"] for t in found.identity()] == [[0.5, 2.0], [-1.0, 4.0]]


def test_without_standardization_they_are_not_put_together():
    ensemble = TeacherEnsemble([embedding_teacher(4), embedding_teacher(6)])
    assert "standardization" not in ensemble.identity()[0]
    with pytest.raises(ConfigError, match="must be standardized first"):
        ensemble.logits([crops(8)])


def test_a_single_teacher_stays_as_it_is():
    teacher = embedding_teacher(4)
    ensemble = TeacherEnsemble([teacher])
    assert torch.equal(ensemble.logits([crops(8)]), teacher.logits(crops(8)))


@pytest.mark.parametrize("other", ["features", "head"])
def test_classes_and_embeddings_are_not_mixed(other):
    members = [embedding_teacher(4, output="logits"), embedding_teacher(6, output=other)]
    for teachers in (members, members[::-1]):
        with pytest.raises(ConfigError, match=rf"teachers: .*gives .*{other}.*of embeddings only"):
            TeacherEnsemble(teachers)
