"""Grad-CAM against its equation, and the layer that is found in networks of every kind."""

import sys

import pytest
import timm
import torch
import torchvision
from torch import nn

from fkd.analysis.grad_cam import GradCam, Grid, enlarge_maps, normalize_maps
from fkd.errors import ConfigError

pytest.importorskip("captum", reason="the extra `analysis` is needed")


def naive_map(activations, gradients):
    """ReLU(sum_k mean(dz/dA_k) A_k) of one image, by loops over (K, H, W)."""
    num_channels, height, width = activations.shape
    weights = [float(gradients[k].mean()) for k in range(num_channels)]
    return torch.tensor(
        [
            [
                max(sum(weights[k] * float(activations[k, i, j]) for k in range(num_channels)), 0.0)
                for j in range(width)
            ]
            for i in range(height)
        ]
    )


class Tokens(nn.Module):
    """A transformer without attention: tokens with a class token before them, or without."""

    def __init__(self, prefix=1, pooling="mean", dim=6, side=4):
        super().__init__()
        self.patches = nn.Conv2d(3, dim, 4, 4)
        self.prefix = nn.Parameter(torch.randn(1, prefix, dim))
        self.mix = nn.Linear(prefix + side * side, prefix + side * side)
        self.block = nn.Linear(dim, dim)
        self.head = nn.Linear(dim, 5)
        self.pooling = pooling

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.prefix.expand(len(x), -1, -1), x], 1)
        x = self.mix(x.transpose(1, 2)).transpose(1, 2).tanh()
        x = self.block(x)
        return self.head(x.mean(1) if self.pooling == "mean" else x[:, 0])


class InPlace(nn.Module):
    """A block whose output is changed in place by all that follows."""

    def __init__(self, in_place=True):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)
        self.in_place = in_place

    def forward(self, x):
        shortcut = self.stem(x)
        y = self.norm(shortcut)
        if self.in_place:
            y += shortcut.tanh()
            y = y.mul_(2.0).relu_()
        else:
            y = ((y + shortcut.tanh()) * 2.0).relu()
        return self.head(y.mean((2, 3)))


def test_the_equation_where_the_gradient_is_known():
    """With a mean over positions and a linear classifier, dz_c/dA_k is W_ck / (H W)."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    head = nn.Linear(4, 5)
    model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    images = torch.randn(3, 3, 7, 7)
    classes = torch.tensor([4, 0, 2])
    cam = GradCam(model, images[:1])
    assert (cam.layer.name, cam.layer.grid) == ("0", Grid("BCHW", 5))
    found = cam.maps(images, classes)
    for image, c, map_ in zip(images, classes.tolist(), found, strict=True):
        activations = body(image[None])[0].detach()
        gradients = (head.weight[c].detach() / 25)[:, None, None].expand_as(activations)
        torch.testing.assert_close(map_, naive_map(activations, gradients))


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_tokens_are_the_grid_of_their_patches(prefix):
    torch.manual_seed(1)
    model, image = Tokens(prefix), torch.randn(1, 3, 16, 16)
    cam = GradCam(model, image, "block")
    assert cam.layer.grid == Grid("BNC", 4, prefix)
    (found,) = cam.maps(image, torch.tensor([2]))
    kept = []
    handle = model.block.register_forward_hook(lambda m, i, output: kept.append(output))
    logits = model(image)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[0, 2], kept)
    grids = [
        torch.stack([torch.stack([of[0, prefix + 4 * i + j] for j in range(4)]) for i in range(4)])
        for of in (kept[0].detach(), gradient)
    ]
    torch.testing.assert_close(found, naive_map(*(grid.permute(2, 0, 1) for grid in grids)))


def test_what_follows_in_place_changes_neither_activations_nor_gradients():
    torch.manual_seed(2)
    models = InPlace(), InPlace(in_place=False)
    models[1].load_state_dict(models[0].state_dict())
    images, classes = torch.randn(2, 3, 5, 5), torch.tensor([1, 3])
    maps = [GradCam(model, images[:1], "norm").maps(images, classes) for model in models]
    assert float(maps[0].max()) > 0
    torch.testing.assert_close(maps[0], maps[1])


def torchvision_swin():
    return torchvision.models.SwinTransformer([4, 4], 8, [1, 1], [1, 2], [4, 4], num_classes=5)


def torchvision_vit():
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5)
    nn.init.normal_(model.heads.head.weight)  # which begins with 0
    return model


def timm_swin():
    return timm.create_model(
        "swin_tiny_patch4_window7_224",
        **{"img_size": 32, "window_size": 4, "embed_dim": 8, "num_classes": 5},
        **{"depths": (1, 1), "num_heads": (1, 2)},
    )


def timm_vit(**options):
    return timm.create_model("test_vit", img_size=48, num_classes=5, **options)


NETWORKS = {
    "timm ResNet": (lambda: timm.create_model("resnet10t"), 64, "layer4", Grid("BCHW", 2)),
    "torchvision ResNet": (torchvision.models.resnet18, 64, "layer4", Grid("BCHW", 2)),
    "EfficientNet": (
        lambda: timm.create_model("tf_efficientnet_lite0"),
        64,
        "bn2",
        Grid("BCHW", 2),
    ),
    "ConvNeXt": (lambda: timm.create_model("convnext_atto"), 64, "stages", Grid("BCHW", 2)),
    "squeeze and excitation": (
        lambda: timm.create_model("mobilenetv3_small_050"),
        64,
        "blocks",
        Grid("BCHW", 2),
    ),
    "timm ViT, class token": (timm_vit, 48, "blocks.5.norm1", Grid("BNC", 3, 1)),
    "timm ViT, mean": (lambda: timm_vit(global_pool="avg"), 48, "blocks", Grid("BNC", 3, 1)),
    "timm ViT, registers": (
        lambda: timm_vit(reg_tokens=4),
        48,
        "blocks.5.norm1",
        Grid("BNC", 3, 5),
    ),
    "torchvision ViT": (
        torchvision_vit,
        32,
        "encoder.layers.encoder_layer_1.ln_1",
        Grid("BNC", 4, 1),
    ),
    "timm Swin": (timm_swin, 32, "norm", Grid("BHWC", 4)),
    "torchvision Swin": (torchvision_swin, 32, "permute", Grid("BCHW", 4)),
    "CaiT": (
        lambda: timm.create_model(
            "cait_xxs24_224", img_size=32, embed_dim=16, depth=2, num_heads=2
        ),
        *(32, "blocks", Grid("BNC", 2)),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_last_layer_with_positions(name):
    build, size, layer, grid = NETWORKS[name]
    torch.manual_seed(0)
    image = torch.randn(1, 3, size, size)
    cam = GradCam(build(), image)
    assert (cam.layer.name, cam.layer.grid) == (layer, grid)
    assert cam.maps(image, torch.tensor([1])).shape == (1, grid.side, grid.side)


@pytest.mark.parametrize("order", ["BCHW", "BHWC", "BNC"])
def test_a_grid_is_put_back_as_it_was(order):
    shape = {"BCHW": (2, 5, 3, 3), "BHWC": (2, 3, 3, 5), "BNC": (2, 11, 5)}[order]
    output, grid = torch.randn(shape), Grid(order, 3, 2 if order == "BNC" else 0)
    assert grid.unfold(output).shape == (2, 5, 3, 3)
    assert torch.equal(grid.fold(grid.unfold(output), output), output)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_of_the_user_stays_as_it_is(training):
    model = torchvision.models.resnet18(num_classes=5).train(training)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    image = torch.randn(1, 3, 32, 32)
    cam = GradCam(model, image)
    cam.maps(image, torch.tensor([1]))
    cam.guided(image, torch.tensor([1]))
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    for module in model.modules():
        assert module.training == training
        assert not module._forward_hooks
        assert not module._backward_hooks
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("layer5", r"no layer 'layer5' \(did you mean layer\d\?\); use one such as .*layer4"),
        ("fc", "the output of fc of tiny is no grid of positions.*layer4"),
        ("", "no layer ''"),
        ("layer4.0.relu", r"the output of layer4\.0\.relu of tiny is no grid"),  # it runs twice
        ("layer4[-1]", r"no layer 'layer4\[-1\]'"),
    ],
)
def test_a_layer_that_is_none(layer, words):
    with pytest.raises(ConfigError, match=words):
        GradCam(torchvision.models.resnet18(), torch.randn(1, 3, 64, 64), layer, "tiny")


@pytest.mark.parametrize("layer", ["layer3", "layer4.1.bn2", "conv1"])
def test_a_layer_by_name(layer):
    cam = GradCam(torchvision.models.resnet18(), torch.randn(1, 3, 64, 64), layer)
    assert cam.layer.name == layer


def test_a_network_without_positions():
    with pytest.raises(ConfigError, match="tiny has no layer whose output is a grid"):
        GradCam(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), torch.randn(1, 3, 2, 2), name="tiny")


def test_swin_v2_has_relus_only_where_no_image_goes():
    """Its ReLUs compute biases of positions."""
    model = torchvision.models.SwinTransformer(
        *([4, 4], 8, [2], [1], [4, 4]),
        num_classes=5,
        block=torchvision.models.swin_transformer.SwinTransformerBlockV2,
    )
    assert any(isinstance(module, nn.ReLU) for module in model.modules())
    image = torch.randn(1, 3, 16, 16)
    assert GradCam(model, image).guided(image, torch.tensor([0])) is None


def test_maps_with_one_value_are_0():
    maps = torch.tensor([[[0.0, 0.0]], [[2.0, 2.0]], [[-1.0, 3.0]]])
    assert normalize_maps(maps).tolist() == [[[0.0, 0.0]], [[0.0, 0.0]], [[0.0, 1.0]]]


def test_enlarging_is_bilinear_between_the_centers_of_positions():
    (row,) = enlarge_maps(torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]), 4)[:, 0].tolist()
    assert row == pytest.approx([0.0, 0.25, 0.75, 1.0])


def test_without_captum(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(ConfigError, match="pip install 'fkd\\[analysis\\]'"):
        GradCam(nn.Identity(), torch.randn(1, 3, 4, 4))
