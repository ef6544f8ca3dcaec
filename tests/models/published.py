"""The weights of our networks in the layouts of the authors' checkpoints."""

import torch

from fkd.models.architectures.embedders import Embedder
from fkd.models.architectures.reactnet import ReActNet


def as_moco(network: Embedder) -> dict[str, torch.Tensor]:
    """With a key encoder and a queue, which serve training alone."""
    state = _renamed(network, {"head.layers.": "fc."}, "module.encoder_q.")
    state |= {key.replace("encoder_q", "encoder_k"): 2 * value for key, value in state.items()}
    return state | {"module.queue": torch.zeros(128, 64), "module.queue_ptr": torch.zeros(1)}


def as_swav(network: Embedder) -> dict[str, torch.Tensor]:
    heads = {"head.projection.": "projection_head.", "head.prototypes.": "prototypes."}
    return _renamed(network, heads, "module.")


def as_reactnet(
    network: ReActNet, *, flat: bool = False, unused: bool = False
) -> dict[str, torch.Tensor]:
    """As ReActNet's step 1 and S2-BNN's two steps; `flat` as ReActNet's step 2."""
    state = {}
    for key, value in network.state_dict().items():
        name = _in_reactnet(key, network)
        if flat and "binary_" in name:
            name, value = name + "s", value.reshape(-1, 1)
        state[name] = value
    if unused:
        state["feature.1.binary_pw.weight"] = torch.zeros(32, 32, 1, 1)
        state["feature.3.binary_pw_down1.weight"] = torch.zeros(128, 128, 1, 1)
        state["feature.3.bn2_1.weight"] = torch.zeros(128)
    return state


def _renamed(network, heads, prefix) -> dict[str, torch.Tensor]:
    state = {}
    for key, value in network.state_dict().items():
        name = key.removeprefix("backbone.")
        for ours, theirs in heads.items():
            if key.startswith(ours):
                name = theirs + key.removeprefix(ours)
        state[prefix + name] = value
    return state


_PARTS = {
    "sign1.bias": "move11.bias",
    "conv1.weight": "binary_3x3.weight",
    "norm1.": "bn1.",
    "act1.before": "move12.bias",
    "act1.prelu.": "prelu1.",
    "act1.after": "move13.bias",
    "sign2.bias": "move21.bias",
    "act2.before": "move22.bias",
    "act2.prelu.": "prelu2.",
    "act2.after": "move23.bias",
}
_ONE = {"convs2.0.": "binary_pw.", "norms2.0.": "bn2."}
_TWO = {f"convs2.{i}.": f"binary_pw_down{i + 1}." for i in (0, 1)}
_TWO |= {f"norms2.{i}.": f"bn2_{i + 1}." for i in (0, 1)}


def _in_reactnet(key: str, network: ReActNet) -> str:
    if not key.startswith("blocks."):
        key = key.replace("stem.0", "feature.0.conv1").replace("stem.1", "feature.0.bn1")
        return key.replace("head.", "fc.")
    _, number, rest = key.split(".", 2)
    branches = len(network.blocks[int(number)].convs2)
    for ours, theirs in (_PARTS | (_ONE if branches == 1 else _TWO)).items():
        if rest.startswith(ours):
            rest = theirs + rest.removeprefix(ours)
    return f"feature.{int(number) + 1}.{rest}"
