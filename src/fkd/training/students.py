"""The student of a run: built before it, written after it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from fkd.data.multicrop import IMAGENET_MEAN, IMAGENET_STD
from fkd.engine.durable import replace_file, replace_text
from fkd.models.architectures.embedders import Embedder
from fkd.models.cards import CONFIG_FILE, ModelCard
from fkd.models.checkpoints import MODEL_FILE
from fkd.models.names import parse_model_name
from fkd.models.preprocessing import has_fixed_input_size
from fkd.models.students import HEAD_FILE, attach_head, load_head, network_of, split_state
from fkd.models.timm_config import describe_network
from fkd.models.trial import try_network
from fkd.models.zoo import load_model
from fkd.training.config import StudentConfig


def build_student(
    config: StudentConfig, num_outputs: int, *, learns_embeddings: bool, seed: int
) -> tuple[nn.Module, ModelCard]:
    """The network to train, and what its folder will say of it.

    Args:
        config: of the student.
        num_outputs: classes, or the width of embeddings.
        learns_embeddings: whether it gives embeddings; its card is that of the network alone, which
            has no classes.
        seed: of its random weights.

    Raises:
        ConfigError: there is no such network, its weights cannot be obtained, or do not fit.
    """
    drop_rates: dict[str, Any] = {
        "drop_rate": config.drop_rate,
        "drop_path_rate": config.drop_path_rate,
    }
    torch.manual_seed(seed)
    loaded = load_model(
        config.name,
        num_classes=None if learns_embeddings else num_outputs,
        headless=learns_embeddings,
        pretrained=config.pretrained,
        checkpoint=config.checkpoint,
        new_head=config.new_head and not learns_embeddings,
        input_size=config.input_size,
        **{name: rate for name, rate in drop_rates.items() if rate > 0},
    )
    preprocessing = replace(loaded.preprocessing, interpolation=config.interpolation)
    if config.normalization == "imagenet":
        preprocessing = replace(preprocessing, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    preprocessing = preprocessing.changed(mean=config.mean, std=config.std)
    has_fixed_size = has_fixed_input_size(parse_model_name(loaded.name))
    kwargs = {"img_size": preprocessing.input_size} if has_fixed_size else {}
    card = ModelCard(loaded.name, loaded.num_classes, preprocessing, kwargs, loaded.license)
    if not learns_embeddings:
        return loaded.model, card
    return _with_head(config, loaded.model, card, num_outputs), card


def save_student(path: Path, student: nn.Module, card: ModelCard, classes: Sequence[str]) -> None:
    """The final files of a run; the weights last, because they mean that the run is finished.

    Of a student of embeddings the weights are those of its network, which loads like any other; the
    head, which only training needs, is a second file.
    """
    network, state, head = student, student.state_dict(), dict[str, Tensor]()
    if isinstance(student, Embedder):
        network = network_of(student)
        state, head = split_state(student)
    config = describe_network(network, card, classes, has_head=bool(head))
    replace_text(path / CONFIG_FILE, json.dumps(config, indent=2) + "\n")
    if head:
        _save_tensors(path / HEAD_FILE, head)
    _save_tensors(path / MODEL_FILE, state)


def _with_head(
    config: StudentConfig, network: nn.Module, card: ModelCard, num_outputs: int
) -> Embedder:
    try_network(network, card.preprocessing, f"student {card.name}")  # before features are counted
    student = attach_head(
        network.train(),
        config.head,
        num_outputs,
        input_size=card.preprocessing.input_size,
        name=card.name,
        hidden=config.head_hidden,
        dim=config.head_dim,
    )
    if config.checkpoint is not None and not config.new_head:
        load_head(student, config.checkpoint)
    return student


def _save_tensors(file: Path, state: dict[str, Tensor]) -> None:
    weights = {name: value.cpu().contiguous() for name, value in state.items()}
    data = safetensors.torch.save(weights, metadata={"format": "pt"})
    replace_file(file, lambda opened: opened.write(data))
