"""Weights are found wherever training scripts put them, and get the names of the network."""

import itertools

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.utils import ModelEmaV2, ModelEmaV3
from torch.optim.swa_utils import AveragedModel

from fkd.errors import ConfigError
from fkd.models.state_dicts import select, strip_prefixes, unwrap
from fkd.models.zoo import build_model

TINY = "test_resnet"
STATE = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.ones(2)}
KEYS = (
    *("state_dict", "model_state_dict", "model", "net", "network", "state_dict_ema"),
    *("model_ema", "ema_state_dict", "ema", "swa_state_dict", "weights", "params", "my_own"),
)
PREFIXES = (
    *("module.", "model.", "net.", "backbone.", "timm_model.", "student.", "_orig_mod."),
    *("encoder.",),
)


def prefixed(prefix, state=STATE):
    return {prefix + name: value for name, value in state.items()}


def same(state):
    return state.keys() == STATE.keys() and all(torch.equal(state[n], STATE[n]) for n in STATE)


@pytest.mark.parametrize("key", KEYS)
def test_weights_beside_other_things(key):
    beside = {"epoch": 3, "best": np.float64(1), "optimizer": {"state": {0: {"m": torch.ones(1)}}}}
    assert same(unwrap({key: STATE, **beside}, "x"))
    if key != "my_own":
        deeper = {"state_dict": {key: {"module": STATE}}, **beside}
        assert same(unwrap(deeper, "x"))


@pytest.mark.parametrize("raw", ["state_dict", "model", "net", "model_state_dict"])
@pytest.mark.parametrize("ema", ["state_dict_ema", "model_ema", "ema", "ema_state_dict"])
def test_an_average_goes_before_its_weights(raw, ema):
    other = {name: value + 1 for name, value in STATE.items()}
    assert same(unwrap({raw: other, ema: STATE}, "x"))
    assert same(unwrap({raw: other, ema: {"module": STATE, "updates": 4}}, "x"))


@pytest.mark.parametrize("prefix", ["".join(pair) for pair in itertools.permutations(PREFIXES, 2)])
def test_prefixes_in_any_nesting(prefix):
    assert same(strip_prefixes(prefixed(prefix)))
    assert same(strip_prefixes(prefixed("module." + prefix)))


def test_counters_of_averages():
    for wrapped in (
        {"n_averaged": torch.tensor(7), **prefixed("module.")},
        {"n_averaged": 7, **STATE},
        {"module.n_averaged": torch.tensor(7), **prefixed("module.module.")},
        {"initted": torch.tensor(True), "step": torch.tensor([3]), **prefixed("ema_model.")},
    ):
        assert same(unwrap({"model": wrapped}, "x"))


@pytest.mark.parametrize(
    "document",
    [{}, [STATE], {"epoch": 3}, {**STATE, "epoch": 3}, 7, {"a": STATE, "b": dict(STATE)}],
)
def test_nothing_says_which_are_the_weights(document):
    with pytest.raises(ConfigError, match=r"x holds .*save a model's state_dict"):
        unwrap(document, "x")


def test_selection_by_the_names_of_the_network():
    mixed = {**prefixed("model."), "criterion.weight": torch.ones(1)}
    assert same(select(mixed, STATE))
    byol = {**prefixed("online.", {n: v + 1 for n, v in STATE.items()}), **prefixed("ema_model.")}
    assert same(select(byol, STATE))
    twins = {**prefixed("a."), **prefixed("b.")}
    assert select(twins, STATE) == twins
    assert same(select(STATE, STATE))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return timm.create_model(TINY, num_classes=4)


class TestRealWrappers:
    """What the wrappers of torch and timm write themselves."""

    def assert_loads(self, path, network):
        own, loaded = network.state_dict(), build_model(TINY, checkpoint=str(path)).state_dict()
        assert all(torch.equal(own[name], loaded[name]) for name in own)

    @pytest.mark.parametrize("wrap", [AveragedModel, ModelEmaV2, ModelEmaV3])
    def test_averages(self, tmp_path, network, wrap):
        torch.save({"model_ema": wrap(network).state_dict()}, tmp_path / "x.pth")
        self.assert_loads(tmp_path / "x.pth", network)

    def test_lightning(self, tmp_path, network):
        state = prefixed("model.", network.state_dict())
        module = {**state, "loss.weight": torch.ones(2), "metric.count": torch.tensor(3)}
        torch.save({"state_dict": module, "epoch": 1, "loops": {}}, tmp_path / "x.ckpt")
        self.assert_loads(tmp_path / "x.ckpt", network)

    def test_compiled_and_distributed(self, tmp_path, network):
        save_file(prefixed("module._orig_mod.", network.state_dict()), tmp_path / "x.safetensors")
        self.assert_loads(tmp_path / "x.safetensors", network)


@pytest.mark.parametrize("wrapper", ["", "module.", "model."])
@pytest.mark.parametrize("own", ["encoder.", "backbone.", "net."])
def test_a_prefix_of_the_network_itself_is_no_wrapper(own, wrapper):
    """Networks of timm that are an encoder and nothing else have it before all their names."""
    names = prefixed(own)
    found = select(unwrap(prefixed(wrapper, names), "x"), names)
    assert found.keys() == names.keys()


def test_a_network_whose_names_have_a_prefix_is_saved_and_loaded(tmp_path):
    small = {"depth": 1, "embed_dim": 32, "num_heads": 2}
    file = tmp_path / "x.safetensors"
    network = build_model("qwen3_vit_88m", **small)
    save_file(network.state_dict(), file)
    for headless in (False, True):
        loaded = build_model("qwen3_vit_88m", checkpoint=str(file), headless=headless, **small)
        weights = loaded.state_dict()
        assert all(torch.equal(value, weights[n]) for n, value in network.state_dict().items())
