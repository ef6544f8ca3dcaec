"""SReT: published sizes and costs, attention in slices, and the same answer twice."""

import pytest
import timm
import torch
from torch import nn

from fkd.errors import ConfigError
from fkd.models.architectures.sret import Residual, SlicedAttention, SReT, _drop_paths, _stages
from fkd.models.zoo import build_model


@pytest.fixture(scope="module")
def sret_lt() -> SReT:
    torch.manual_seed(0)
    return build_model("sret_lt").eval()


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "parameters"), [("sret_t", 4_755_979), ("sret_lt", 4_988_024), ("sret_s", 20_899_692)]
)
def test_published_sizes(name, parameters):
    with torch.device("meta"):
        assert count(timm.create_model(name)) == parameters


def test_the_parts_of_sret_lt_have_their_sizes(sret_lt):
    assert count(sret_lt.stem) == 56_640
    assert sret_lt.pos_embed.numel() == 50_176
    assert [count(stage.blocks) for stage in sret_lt.stages] == [99_976, 991_380, 2_369_292]
    assert [count(stage.units) for stage in sret_lt.stages] == [33_800, 332_820, 792_588]
    assert [count(pool) for pool in sret_lt.pools] == [1_280, 2_560]
    assert (count(sret_lt.norm), count(sret_lt.head)) == (512, 257_000)
    stored = sum(value.numel() for value in sret_lt.state_dict().values())
    statistics = sum(b.numel() for name, b in sret_lt.named_buffers() if "order" not in name)
    assert stored == count(sret_lt) + statistics  # shared weights once, orders not at all


def test_multiplications_of_sret_lt(sret_lt):
    """1.164 G: stem, linear layers of the blocks, attention, non-projection units."""
    found = {"stem": 0.0, "linear": 0.0, "attention": 0.0, "units": 0.0}

    def of_conv(module, inputs, output):
        side = output.shape[-1]
        found["stem"] += module.weight.numel() * side * side

    def of_linear(kind):
        def add(module, inputs, output):
            found[kind] += module.weight.numel() * inputs[0].numel() / inputs[0].shape[-1]

        return add

    def of_attention(module, inputs):
        tokens, groups, _ = inputs
        _, n, dim = tokens.shape
        found["attention"] += 2 * n * n // groups * dim

    hooks = [m.register_forward_hook(of_conv) for m in sret_lt.stem if isinstance(m, nn.Conv2d)]
    for stage in sret_lt.stages:
        for kind, modules in (("linear", stage.blocks), ("units", stage.units)):
            linear = [m for m in modules.modules() if isinstance(m, nn.Linear)]
            hooks += [m.register_forward_hook(of_linear(kind)) for m in linear]
        attention = [m for m in stage.modules() if isinstance(m, SlicedAttention)]
        hooks += [m.register_forward_pre_hook(of_attention) for m in attention]
    with torch.no_grad():
        sret_lt(torch.zeros(1, 3, 224, 224))
    for hook in hooks:
        hook.remove()
    giga = {kind: round(value / 1e9, 3) for kind, value in found.items()}
    assert giga == {"stem": 0.098, "linear": 0.771, "attention": 0.167, "units": 0.128}


def test_evaluation_gives_the_same_output_twice(sret_lt):
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(sret_lt(images), sret_lt(images))
        again = build_model("sret_lt").eval()
        again.load_state_dict(sret_lt.state_dict())
        assert torch.equal(sret_lt(images), again(images))


def naive_attention(attention, tokens, order, groups):
    """One group after the other, one head after the other."""
    _, n, dim = tokens.shape
    width, size = dim // attention.heads, n // groups
    mixed = torch.zeros_like(tokens)
    for group in range(groups):
        members = order[group * size : (group + 1) * size]
        q, k, v = attention.qkv(tokens[:, members]).split(dim, dim=-1)
        for head in range(attention.heads):
            part = slice(head * width, (head + 1) * width)
            score = q[..., part] @ k[..., part].transpose(1, 2) / width**0.5
            mixed[:, members, part] = score.softmax(-1) @ v[..., part]
    return attention.proj(mixed)


@pytest.mark.parametrize("shuffles", [False, True])
@pytest.mark.parametrize("groups", [1, 4])
def test_attention_stays_in_its_group_and_tokens_keep_their_places(shuffles, groups):
    attention = SlicedAttention(12, heads=3, num_tokens=16).eval()
    tokens = torch.randn(2, 16, 12)
    order = attention.order if shuffles else torch.arange(16)
    expected = naive_attention(attention, tokens, order, groups)
    torch.testing.assert_close(attention(tokens, groups, shuffles), expected)


def test_training_shuffles_anew():
    attention = SlicedAttention(8, heads=2, num_tokens=16).train()
    tokens = torch.randn(1, 16, 8)
    assert not torch.equal(attention(tokens, 4, True), attention(tokens, 4, True))
    assert torch.equal(attention(tokens, 4, False), attention(tokens, 4, False))


def test_a_block_serves_two_loops_and_every_weight_learns():
    network = build_model("sret_t", num_classes=5, img_size=32, drop_path_rate=0.0).train()
    uses = {}
    for name, module in network.named_modules():
        if isinstance(module, (Residual, SlicedAttention)):
            uses[name] = 0
            module.register_forward_hook(
                lambda m, i, o, name=name: uses.update({name: uses[name] + 1})
            )
    network(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert {n for name, n in uses.items() if ".blocks." in name} == {2}
    assert {n for name, n in uses.items() if ".units." in name} == {1}
    # A norm over a single number per channel has no gradient; only 1x1 maps of the stem could.
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_drop_paths_grow_with_the_depth():
    paths = _drop_paths(_stages(64, (2, 4, 8)), 0.1)
    expected = [[0, 1], [4, 5, 6, 7, 8], [14, 15, 16]]
    for own, places in zip(paths, expected, strict=True):
        assert own == pytest.approx([0.1 * place / 20 for place in places])
    assert build_model("sret_s").stages[2].blocks[0].mlp.drop_path.drop_prob == pytest.approx(0.14)


def test_a_new_head_is_timms_way(sret_lt):
    network = build_model("sret_t", img_size=64)
    network.reset_classifier(3)
    assert network.get_classifier().out_features == network.num_classes == 3
    assert network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    network.reset_classifier(0)
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 256)


def test_positions_do_not_decay_and_odd_sizes_are_refused(sret_lt):
    assert sret_lt.no_weight_decay() == {"pos_embed"}
    with pytest.raises(ConfigError, match="cannot be sliced into"):
        build_model("sret_lt", img_size=40)
    with pytest.raises(ConfigError, match="192x224 is not square"):
        build_model("sret_lt", img_size=(224, 192))
