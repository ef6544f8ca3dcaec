"""Teachers by their configuration: what is loaded, and what of it is asked."""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import nn

from fkd.checks import require_colors, require_one_of, require_positive, require_whole
from fkd.crops.replay import Interpolation
from fkd.errors import ConfigError
from fkd.models.architectures.embedders import Embedder
from fkd.models.classes import numbered_classes, read_class_names
from fkd.models.ensemble import TeacherEnsemble
from fkd.models.features import PooledFeatures
from fkd.models.heads import load_head
from fkd.models.modules import TeacherModule, load_module
from fkd.models.single_teacher import Teacher, TeacherOutput
from fkd.models.trial import try_network
from fkd.models.zoo import LoadedModel, is_published_headless, load_model
from fkd.userfiles import settle_paths


@dataclass(frozen=True)
class TeacherConfig:
    """One teacher.

    Attributes:
        name: a timm name, or "torchvision/" and torchvision's; pretrained unless there is a
            checkpoint. Or a model folder: of a run of fkd, of timm or of transformers.
        output: logits of its classes, features (the pooled embedding before its classifier, which
            it may lack), or head: what a projection head makes of these.
        head: a file with that head, where the network has none by itself.
        checkpoint: a file of weights, or a model folder, which needs no name.
        weight: its share in an ensemble, relative to the others'.
        temperature: divides the logits before the softmax, or with codec sigmoid:K before the
            sigmoid; of no embeddings, which have neither.
        input_size: pixels of its crops; by default those of its own configuration.
        interpolation: how its crops are resized; by default that of its own configuration.
        mean: of red, green, blue, where white is 1, for weights that were trained with others than
            its own configuration says.
        std: standard deviation of the same.
        class_names: a file with the names of its outputs (JSON list, or one a line), where they
            are not known.

    Example:
        >>> from fkd import TeacherConfig
        >>> TeacherConfig("resnet50", weight=2.0).temperature
        1.0
    """

    name: str | None = None
    _: KW_ONLY
    output: TeacherOutput = "logits"
    head: str | None = None
    checkpoint: str | None = None
    weight: float = 1.0
    temperature: float = 1.0
    input_size: int | None = None
    interpolation: Interpolation | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    class_names: str | None = None

    def __post_init__(self) -> None:
        if not self.name and not self.checkpoint:
            raise ConfigError("teacher.name: give a model name, or a run folder as its checkpoint")
        for field in ("weight", "temperature"):
            require_positive(f"teacher.{field}", getattr(self, field))
        require_whole(1, "teacher.input_size", self.input_size)
        require_one_of(Interpolation, "teacher.interpolation", self.interpolation)
        require_one_of(TeacherOutput, "teacher.output", self.output)
        if self.head is not None and self.output != "head":
            raise ConfigError(
                f"teacher.head: is not used with --teacher.output {self.output}; use "
                "--teacher.output head, or leave it out"
            )
        if self.class_names is not None and self.output != "logits":
            raise ConfigError(
                f"teacher.class_names: with --teacher.output {self.output} the outputs are no "
                "classes; leave it out"
            )
        require_colors("teacher.", self.mean, self.std)
        settle_paths(self, "checkpoint", "class_names", "head")


def load_teachers(
    configs: Sequence[TeacherConfig | TeacherModule],
    *,
    class_names: Sequence[str] | Callable[[list[str]], list[str] | None] | None = None,
    image_classes: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
) -> TeacherEnsemble:
    """The teachers of a configuration, or of modules, on their device.

    Args:
        configs: one or more.
        class_names: of the outputs, in this order, matched by name in every head: the
            same names, WordNet ids or their lemmas. Or what makes these of the classes of the first
            teacher. By default all classes of the first teacher.
        image_classes: what the outputs of a module are called where nothing else says it.
        device: where they run.

    Raises:
        ConfigError: a teacher cannot be loaded or does not know a class.

    Example:
        >>> import torch
        >>> from fkd import TeacherConfig, load_teachers
        >>> config = TeacherConfig("test_resnet", checkpoint="teacher.safetensors", input_size=32)
        >>> teachers = load_teachers([config])
        >>> crops = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
        >>> teachers.probabilities([crops]).shape
        torch.Size([2, 7])
    """
    teachers = [
        load_module(config, image_classes)
        if isinstance(config, TeacherModule)
        else _load_teacher(config)
        for config in configs
    ]
    if callable(class_names):
        class_names = class_names(teachers[0].class_names)
    return TeacherEnsemble(teachers, class_names).to(device)


def _load_teacher(config: TeacherConfig) -> Teacher:
    published = config.name if config.checkpoint is None else None
    if config.output == "logits" and published and is_published_headless(published):
        raise _no_classes(published)  # before anything is downloaded
    loaded = load_model(
        config.name or None,
        pretrained=config.checkpoint is None,
        checkpoint=config.checkpoint,
        headless=config.output == "features" or config.head is not None,
        input_size=config.input_size,
        interpolation=config.interpolation,
        mean=config.mean,
        std=config.std,
    )
    if config.output != "logits" or isinstance(loaded.model, Embedder):
        return _embedding_teacher(config, loaded)
    return _teacher(config, loaded, loaded.model, _class_names(config, loaded), "logits")


def _class_names(config: TeacherConfig, loaded: LoadedModel) -> list[str]:
    """What the outputs of a classifier are called."""
    if loaded.num_classes == 0:
        raise _no_classes(loaded.name)
    names = loaded.class_names or numbered_classes(loaded.num_classes)
    if config.class_names is not None:
        names = read_class_names(config.class_names)
    if len(names) != loaded.num_classes:
        raise ConfigError(
            f"teacher.class_names: {config.class_names} names {len(names)} classes, but "
            f"{loaded.name} has {loaded.num_classes} outputs; give one name per output"
        )
    return names


def _no_classes(name: str) -> ConfigError:
    return ConfigError(
        f"teacher.output: {name} has no classifier and knows no classes; use its features "
        "(--teacher.output features)"
    )


def _embedding_teacher(config: TeacherConfig, loaded: LoadedModel) -> Teacher:
    """A teacher whose outputs are no classes: pooled features, or what a head makes of them."""
    if config.class_names is not None:  # with output logits, which this network does not have
        raise ConfigError(
            f"teacher.class_names: the outputs of {loaded.name} are no classes; leave it out"
        )
    if config.output != "features" and config.head is None:
        if not isinstance(loaded.model, Embedder):
            raise ConfigError(
                f"teacher.output: {loaded.name} has no projection head; give a file with one "
                "(--teacher.head), or use --teacher.output features"
            )
        names = numbered_classes(loaded.num_classes)
        return _teacher(config, loaded, loaded.model, names, "head")
    owner = f"teacher {loaded.name}"
    features = PooledFeatures(loaded.model, owner)
    try_network(loaded.model, loaded.preprocessing, owner)
    width = features.count(loaded.preprocessing.input_size)
    if config.head is None:
        return _teacher(config, loaded, features, numbered_classes(width), "features")
    head = load_head(config.head, width, loaded.name)
    names = numbered_classes(head.num_outputs)
    return _teacher(config, loaded, nn.Sequential(features, head), names, "head")


def _teacher(
    config: TeacherConfig,
    loaded: LoadedModel,
    network: nn.Module,
    class_names: list[str],
    output: TeacherOutput,
) -> Teacher:
    if output != "logits" and config.temperature != 1.0:
        raise ConfigError(
            f"teacher.temperature: the {output} of {loaded.name} are no classes and take no "
            "softmax; leave it out, and give --ssl.temperature to the training of a student"
        )
    return Teacher(
        network,
        name=loaded.name,
        preprocessing=loaded.preprocessing,
        class_names=class_names,
        weight=config.weight,
        temperature=config.temperature,
        output=output,
        license=loaded.license,
    )
