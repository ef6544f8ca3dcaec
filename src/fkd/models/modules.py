"""Any `nn.Module` as a teacher: a copy of it, its input, the names of its outputs.

The user's module is not touched: neither its mode, nor its device, nor a weight. The copy is made
in float32 on the CPU, as `load_model` makes networks, so a network that has a name as well gives
the same labels either way.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fkd.checks import require_colors, require_one_of, require_positive, require_whole
from fkd.crops.replay import Interpolation
from fkd.errors import ConfigError, reason_of
from fkd.models.checkpoints import weights_sha256
from fkd.models.classes import imagenet_classes, numbered_classes
from fkd.models.features import PooledFeatures
from fkd.models.headless import remove_classifier
from fkd.models.module_inputs import find_preprocessing
from fkd.models.module_outputs import ModuleOutput, as_tensors, count_outputs
from fkd.models.single_teacher import Teacher
from fkd.models.trial import try_network

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


@dataclass(frozen=True)
class TeacherModule:
    """A network in Python as a teacher.

    Attributes:
        model: any module that takes normalized images (B, 3, S, S) as its first argument. Its
            outputs are a tensor, or an object or a dict with `logits`.
        name: what the store calls it; by default that of its class, or of timm's architecture.
        output: logits of classes, or features, which are no classes: of networks of timm those
            before the classifier, of any other what it gives.
        weight: its share in an ensemble, relative to the others'.
        temperature: divides the logits before the softmax; of no features.
        preprocessing: what its input is, where the module does not say so as timm's do: weights of
            torchvision (`ResNet50_Weights.DEFAULT`) or their transforms, an image processor of
            transformers, or a dict such as `timm.data.resolve_model_data_config` returns.
        input_size: pixels of its crops, in the place of that of the preprocessing.
        interpolation: how its crops are resized; bilinear where nothing says so.
        mean: of red, green, blue, where white is 1.
        std: standard deviation of the same.
        class_names: of its outputs, in their order; by default those of its own configuration, or
            those of the images where there are as many.
        license: of its weights, to be kept in the store.

    Example:
        >>> import timm
        >>> from fkd import TeacherModule
        >>> model = timm.create_model("test_resnet", num_classes=3)
        >>> TeacherModule(model, weight=2.0, input_size=32).weight
        2.0
    """

    model: nn.Module
    _: KW_ONLY
    name: str | None = None
    output: ModuleOutput = "logits"
    weight: float = 1.0
    temperature: float = 1.0
    preprocessing: Any = None
    input_size: int | None = None
    interpolation: Interpolation | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    class_names: Sequence[str] | None = None
    license: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise ConfigError(f"model: a {type(self.model).__name__} is no torch.nn.Module")
        for name in ("name", "license"):
            text = getattr(self, name)
            if text is not None and not (isinstance(text, str) and text and text.isprintable()):
                raise ConfigError(f"{name} must be a text in one line, got {text!r}")
        require_one_of(ModuleOutput, "output", self.output)
        for name in ("weight", "temperature"):
            require_positive(name, getattr(self, name))
        require_whole(1, "input_size", self.input_size)
        require_one_of(Interpolation, "interpolation", self.interpolation)
        require_colors("", self.mean, self.std)
        if self.output == "features" and self.class_names is not None:
            raise ConfigError("class_names: features are no classes; leave it out")
        if self.output == "features" and self.temperature != 1.0:
            raise ConfigError("temperature: features take no softmax; leave it out")
        _require_names(self.class_names)


def load_module(given: TeacherModule, image_classes: Sequence[str] | None = None) -> Teacher:
    """The teacher that a module makes.

    Args:
        given: the module, and what is said of it.
        image_classes: names of its outputs where nothing else says them, and there are as many.

    Raises:
        ConfigError: its input or its outputs are not known, or it gives other outputs for the same
            crops.
    """
    module = _unwrap(given.model)
    name = given.name or _name_of(module)
    owner = f"teacher {name}"
    preprocessing = find_preprocessing(
        module,
        given.preprocessing,
        owner,
        input_size=given.input_size,
        interpolation=given.interpolation,
        mean=given.mean,
        std=given.std,
    )
    network = _copy_module(module, owner)
    state = _state_of(network, owner)
    if given.output == "features" and _is_of_timm(network):
        remove_classifier(network, name)
        network = PooledFeatures(network, owner)
        state = network.state_dict()
    try_network(network, preprocessing, owner)
    network = as_tensors(network, preprocessing, given.output, owner)
    num_outputs = count_outputs(network, preprocessing, given.output, owner)
    names = numbered_classes(num_outputs)
    if given.output == "logits":
        names = _class_names(given, module, num_outputs, image_classes, name)
    return Teacher(
        network,
        name=name,
        preprocessing=preprocessing,
        class_names=names,
        weight=float(given.weight),
        temperature=float(given.temperature),
        output=given.output,
        license=given.license,
        weights=weights_sha256(state),
    )


def _copy_module(module: nn.Module, owner: str) -> nn.Module:
    """A copy in float32 on the CPU, in evaluation mode, that shares nothing with the module.

    Raises:
        ConfigError: it has weights that are not there yet, or cannot be copied.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise ConfigError(
            f"{owner} is a ScriptModule, which cannot be copied into float32; give the module that "
            "it was made of"
        )
    memo: dict[int, Any] = {}
    for key, tensor in (*module.named_parameters(), *module.named_buffers()):
        if nn.parameter.is_lazy(tensor) or tensor.is_meta:
            raise ConfigError(
                f"{owner}: its weight {key} has no values yet; load them, and call the module once "
                "if it has lazy layers"
            )
        values = tensor.detach().to("cpu", copy=True)
        values = values.to(torch.float32) if values.is_floating_point() else values
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(values, requires_grad=False) if is_parameter else values
    try:
        return copy.deepcopy(module, memo).eval()
    except Exception as error:  # of any class that a user's module holds
        raise ConfigError(
            f"{owner} cannot be copied ({reason_of(error)}); labels are made by a "
            "copy, so remove from the module what has none, such as open files or weight_norm"
        ) from error


def _unwrap(module: Any) -> nn.Module:
    """The module that torch.compile, DataParallel and DistributedDataParallel wrap."""
    while True:
        compiled = module.__dict__.get("_modules", {}).get("_orig_mod")
        if compiled is not None:
            module = compiled
        elif isinstance(module, _WRAPPERS):
            module = module.module
        else:
            return module  # type: ignore[no-any-return]


def _name_of(module: nn.Module) -> str:
    """timm's name of the architecture, or that of the class."""
    config: Any = getattr(module, "pretrained_cfg", None)
    architecture = config.get("architecture") if isinstance(config, Mapping) else None
    return architecture if isinstance(architecture, str) else type(module).__name__


def _is_of_timm(module: nn.Module) -> bool:
    return hasattr(module, "forward_features") and hasattr(module, "forward_head")


def _state_of(network: nn.Module, owner: str) -> dict[str, Tensor]:
    """The tensors of its state dict, which has a checksum.

    Raises:
        ConfigError: weights are in another form, such as those of quantized layers.
    """
    state = network.state_dict()
    extra = {key for key in state if key.endswith("_extra_state")}  # of any kind, not weights
    for key in state.keys() - extra:
        if not isinstance(state[key], Tensor) or state[key].is_quantized:
            raise ConfigError(
                f"{owner}: its weight {key} is a {type(state[key]).__name__} without a checksum, "
                "as those of quantized layers; give the module before it was quantized"
            )
    return {key: value for key, value in state.items() if key not in extra}


def _class_names(
    given: TeacherModule,
    module: nn.Module,
    num_outputs: int,
    image_classes: Sequence[str] | None,
    name: str,
) -> list[str]:
    """What the outputs are called: as given, by the module, as the images, or by their number."""
    if given.class_names is not None:
        if len(given.class_names) != num_outputs:
            raise ConfigError(
                f"class_names: {len(given.class_names)} names are given, but {name} has "
                f"{num_outputs} outputs; give one name per output, in their order"
            )
        return list(given.class_names)
    known = _known_names(module, num_outputs)
    if known is not None:
        return known
    if image_classes is not None and len(image_classes) == num_outputs:
        return list(image_classes)
    of_imagenet = imagenet_classes(num_outputs)
    if of_imagenet is not None:
        return of_imagenet
    if image_classes is None:
        return numbered_classes(num_outputs)
    raise ConfigError(
        f"class_names: {name} has {num_outputs} outputs and the images have {len(image_classes)} "
        "classes; name its outputs (class_names, a list in their order), or give a teacher of "
        "these classes"
    )


def _known_names(module: nn.Module, num_outputs: int) -> list[str] | None:
    """The names in the configuration of a network of timm or transformers, if they are usable."""
    timm: Any = getattr(module, "pretrained_cfg", None)
    config: Any = getattr(module, "config", None)
    names = timm.get("label_names") if isinstance(timm, Mapping) else None
    labels = getattr(config, "id2label", None)
    if names is None and isinstance(labels, Mapping):
        names = [labels[key] for key in sorted(labels, key=int)]
    if names is None or len(names) != num_outputs or len(set(names)) < num_outputs:
        return None  # ImageNet's first words are not unique: "crane" is a bird and a machine
    placeholders = [f"LABEL_{i}" for i in range(num_outputs)]
    return None if list(names) == placeholders else [str(name) for name in names]


def _require_names(names: Sequence[str] | None) -> None:
    if names is None:
        return
    if isinstance(names, str) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"class_names must be a list of names, got {names!r}")
