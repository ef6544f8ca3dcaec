"""Teachers: networks in evaluation mode, alone or as an ensemble, with reproducible outputs.

A teacher gives the same numbers for the same crop in every call: evaluation mode, float32
without TF32, deterministic kernels; half precision only on request. Its softmax is in float32.
Batch norms are folded into convolutions, which moves its probabilities by some 1e-6.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fkd.checks import require_colors, require_one_of, require_positive, require_whole
from fkd.crops.replay import InputSpec, Interpolation
from fkd.errors import ConfigError, TeacherError
from fkd.models.checkpoints import weights_sha256
from fkd.models.classes import match_classes, numbered_classes, read_class_names, refuse_duplicates
from fkd.models.folding import count_batch_norms, fold_batch_norms
from fkd.models.numerics import Autocast, precision
from fkd.models.preprocessing import Preprocessing
from fkd.models.trial import try_network
from fkd.models.zoo import load_model
from fkd.userfiles import settle_paths


@dataclass(frozen=True)
class TeacherConfig:
    """One teacher.

    Attributes:
        name: a timm name, or "torchvision/" and torchvision's; pretrained unless there is a
            checkpoint. Or a model folder: of a run of fkd, of timm or of transformers.
        checkpoint: a file of weights, or a model folder, which needs no name.
        weight: its share in an ensemble, relative to the others'.
        temperature: divides the logits before the softmax.
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
        require_colors("teacher.", self.mean, self.std)
        settle_paths(self, "checkpoint", "class_names")


class NotFinite(TeacherError):
    """An output of a teacher is NaN or infinity; `crop` is the position in the batch."""

    def __init__(self, message: str, crop: int) -> None:
        super().__init__(message)
        self.crop = crop


class Teacher:
    """A network in evaluation mode that classifies uint8 crops.

    Attributes:
        model: the network, in evaluation mode.
        name: of the network.
        preprocessing: the input that it expects.
        class_names: of the columns of its outputs.
        weight: its share in an ensemble.
        temperature: divides its logits before the softmax.
        num_folded: batch norms that were folded into convolutions.
        num_unfolded: those that were left.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str,
        preprocessing: Preprocessing,
        class_names: Sequence[str],
        weight: float = 1.0,
        temperature: float = 1.0,
    ) -> None:
        """Takes over a model whose outputs are called `class_names`, and changes it for speed.

        Raises:
            ConfigError: two classes have one name, or the network cannot take crops of its size.
        """
        refuse_duplicates(class_names, f"teacher {name}")
        self.name = name
        self.preprocessing = preprocessing
        self.class_names = list(class_names)
        self.weight = weight
        self.temperature = temperature
        self._weights_sha256 = weights_sha256(model.state_dict())
        self._head = list(class_names)
        self._columns: Tensor | None = None  # outputs in the order of class_names; None for all
        self.model = model.eval().requires_grad_(False)
        try_network(self.model, preprocessing, f"teacher {name}")
        self.num_folded = fold_batch_norms(self.model, self._example())
        self.num_unfolded = count_batch_norms(self.model)
        self.model.to(memory_format=torch.channels_last)

    @property
    def view(self) -> InputSpec:
        """What its crops must be made for."""
        return InputSpec(self.preprocessing.input_size, self.preprocessing.interpolation)

    def with_classes(self, class_names: Sequence[str]) -> "Teacher":
        """The same network with the outputs of these classes in this order, matched by name.

        The other outputs are dropped before the softmax, so probabilities are those given that one
        of these classes is shown.

        Raises:
            ConfigError: a class is unknown or ambiguous.
        """
        try:
            outputs = match_classes(class_names, self._head)
        except ConfigError as error:
            raise ConfigError(f"teacher {self.name}: {error}") from error
        teacher = copy.copy(self)
        whole = outputs == list(range(len(self._head)))
        teacher._columns = None if whole else torch.tensor(outputs)
        teacher.class_names = list(class_names)
        return teacher

    def to(self, device: torch.device) -> None:
        """Move the network."""
        self.model.to(device)

    def logits(self, crops: Tensor, *, autocast: Autocast | None = None) -> Tensor:
        """Outputs before the softmax, float32 (B, C), for uint8 crops (B, 3, S, S) of its view.

        Raises:
            TeacherError: an output is not finite (`NotFinite`), the network is in training mode, or
                the crops are not of its view.
        """
        return self.forward(self.model, crops, autocast=autocast)

    def forward(
        self,
        network: Callable[[Tensor], Tensor],
        crops: Tensor,
        *,
        autocast: Autocast | None = None,
    ) -> Tensor:
        """Outputs of another form of the same network, float32 (B, C, ...); raises like `logits`.

        Args:
            network: from normalized crops to all outputs of the head (B, head, ...).
            crops: uint8 (B, 3, S, S), of its view.
            autocast: compute in half precision.
        """
        self._refuse_unsuitable(crops)
        device = next(self.model.parameters()).device
        with torch.inference_mode(), precision(device, autocast):
            logits = network(self.preprocessing.normalize(crops.to(device))).to(torch.float32)
            if self._columns is not None:
                logits = logits[:, self._columns.to(device)]
            self._refuse_not_finite(logits, autocast)
        return logits.clone()  # outside inference mode: a loss may keep it for its backward pass

    def probabilities(self, crops: Tensor, *, autocast: Autocast | None = None) -> Tensor:
        """Softmax of the logits at its temperature, float32 (B, C); raises like `logits`."""
        return torch.softmax(self.logits(crops, autocast=autocast) / self.temperature, dim=1)

    def identity(self) -> dict[str, Any]:
        """What its outputs depend on, in values of JSON."""
        return {
            "name": self.name,
            "weights_sha256": self._weights_sha256,
            "classes_sha256": hashlib.sha256(json.dumps(self._head).encode()).hexdigest(),
            "weight": self.weight,
            "temperature": self.temperature,
            "input_size": self.preprocessing.input_size,
            "interpolation": self.preprocessing.interpolation,
            "mean": list(self.preprocessing.mean),
            "std": list(self.preprocessing.std),
        }

    def _example(self) -> Tensor:
        """One crop of noise, always the same."""
        size = self.preprocessing.input_size
        generator = torch.Generator().manual_seed(0)
        crop = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8, generator=generator)
        return self.preprocessing.normalize(crop.to(next(self.model.parameters()).device))

    def _refuse_unsuitable(self, crops: Tensor) -> None:
        if any(module.training for module in self.model.modules()):
            raise TeacherError(
                f"teacher {self.name} is in training mode, where outputs depend on the batch; "
                "call eval() on its model"
            )
        size = self.preprocessing.input_size
        if crops.dtype != torch.uint8 or crops.shape[1:] != (3, size, size):
            raise TeacherError(
                f"teacher {self.name} takes uint8 crops of 3x{size}x{size}, got {crops.dtype} of "
                f"{'x'.join(map(str, crops.shape[1:]))}; make crops for its view"
            )

    def _refuse_not_finite(self, logits: Tensor, autocast: Autocast | None) -> None:
        finite = torch.isfinite(logits).flatten(1).all(dim=1)
        if bool(finite.all()):
            return
        crop = int(torch.nonzero(~finite)[0])
        cure = "check its weights" if autocast is None else f"leave out autocast {autocast} (fp32)"
        raise NotFinite(
            f"teacher {self.name} gives NaN or infinity for crop {crop} of the batch; {cure}", crop
        )


class Answer(NamedTuple):
    """Outputs of one or several teachers for B crops.

    Attributes:
        probabilities: weighted mean of theirs, float32 (B, C).
        logits: plain mean of theirs, float32 (B, C).
    """

    probabilities: Tensor
    logits: Tensor


class TeacherEnsemble:
    """Teachers whose outputs are averaged, with the same classes in the same order.

    Attributes:
        teachers: its members, at least one.
        class_names: of the columns of the outputs.
        views: what crops must be made for, without repetition: the order of `crops` below.
    """

    def __init__(
        self, teachers: Sequence[Teacher], class_names: Sequence[str] | None = None
    ) -> None:
        """Takes teachers and the classes of the outputs, by default those of the first teacher.

        Raises:
            ConfigError: there is no teacher, or one does not know a class.
        """
        if not teachers:
            raise ConfigError("teachers: give at least one teacher")
        self.class_names = list(teachers[0].class_names if class_names is None else class_names)
        refuse_duplicates(self.class_names, "the data set")
        self.teachers = [teacher.with_classes(self.class_names) for teacher in teachers]
        self.views: list[InputSpec] = list(dict.fromkeys(teacher.view for teacher in self.teachers))

    def __repr__(self) -> str:
        names = " + ".join(teacher.name for teacher in self.teachers)
        return f"TeacherEnsemble({names}, {len(self.class_names)} classes)"

    def to(self, device: torch.device | str) -> "TeacherEnsemble":
        """Move all networks; returns itself."""
        for teacher in self.teachers:
            teacher.to(torch.device(device))
        return self

    def probabilities(self, crops: Sequence[Tensor], *, autocast: Autocast | None = None) -> Tensor:
        """The probabilities of `answer`, float32 (B, C); arguments and errors likewise."""
        return self.answer(crops, autocast=autocast).probabilities

    def answer(
        self,
        crops: Sequence[Tensor],
        *,
        autocast: Autocast | None = None,
        temperature: float = 1.0,
    ) -> Answer:
        """The mean outputs of the teachers.

        Source: MEAL V2 (Shen and Savvides, 2020), Sec. 3: the average over all classes, before any
        compression.

        Args:
            crops: the same crops once for each of `views`, uint8 (B, 3, S, S).
            autocast: compute in half precision; faster and less exact.
            temperature: divides the logits before the softmax, besides each teacher's own.

        Raises:
            TeacherError: an output is not finite, or the crops are not of the views.
        """
        total = sum(teacher.weight for teacher in self.teachers)
        logits = [t.logits(self._for(t, crops), autocast=autocast) for t in self.teachers]
        shares = [
            torch.softmax(of_one / (teacher.temperature * temperature), dim=1)
            * (teacher.weight / total)
            for teacher, of_one in zip(self.teachers, logits, strict=True)
        ]
        return Answer(sum(shares[1:], start=shares[0]), torch.stack(logits).mean(0))

    def each(self, crops: Sequence[Tensor], *, autocast: Autocast | None = None) -> Tensor:
        """Every teacher's own probabilities, float32 (B, T, C); errors as `answer`."""
        probabilities = [
            t.probabilities(self._for(t, crops), autocast=autocast) for t in self.teachers
        ]
        return torch.stack(probabilities, dim=1)

    def logits(self, crops: Sequence[Tensor], *, autocast: Autocast | None = None) -> Tensor:
        """Logits of a single teacher, float32 (B, C); arguments and errors as `probabilities`.

        Raises:
            ConfigError: there are several teachers; their logits have no common scale.
        """
        if len(self.teachers) > 1:
            raise ConfigError(
                f"logits of {len(self.teachers)} teachers cannot be averaged; use one teacher, or "
                "a codec of probabilities"
            )
        teacher = self.teachers[0]
        return teacher.logits(self._for(teacher, crops), autocast=autocast)

    def identity(self) -> list[dict[str, Any]]:
        """What the outputs depend on besides `class_names`, one JSON object per teacher."""
        return [teacher.identity() for teacher in self.teachers]

    def _for(self, teacher: Teacher, crops: Sequence[Tensor]) -> Tensor:
        return crops[self.views.index(teacher.view)]


def load_teachers(
    configs: Sequence[TeacherConfig],
    *,
    class_names: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
) -> TeacherEnsemble:
    """The teachers of a configuration, on their device.

    Args:
        configs: one or more.
        class_names: of the outputs, in this order, matched by name in every head: the
            same names, WordNet ids or their lemmas. By default all classes of the first teacher.
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
    return TeacherEnsemble([_load_teacher(c) for c in configs], class_names).to(device)


def _load_teacher(config: TeacherConfig) -> Teacher:
    loaded = load_model(
        config.name or None,
        pretrained=config.checkpoint is None,
        checkpoint=config.checkpoint,
        input_size=config.input_size,
        interpolation=config.interpolation,
        mean=config.mean,
        std=config.std,
    )
    names = loaded.class_names or numbered_classes(loaded.num_classes)
    if config.class_names is not None:
        names = read_class_names(config.class_names)
    if len(names) != loaded.num_classes:
        raise ConfigError(
            f"teacher.class_names: {config.class_names} names {len(names)} classes, but "
            f"{loaded.name} has {loaded.num_classes} outputs; give one name per output"
        )
    return Teacher(
        loaded.model,
        name=loaded.name,
        preprocessing=loaded.preprocessing,
        class_names=names,
        weight=config.weight,
        temperature=config.temperature,
    )
