"""One teacher: a network in evaluation mode with reproducible outputs.

A teacher gives the same numbers for the same crop in every call: evaluation mode, float32
without TF32, deterministic kernels; half precision only on request. Its softmax is in float32.
Batch norms are folded into convolutions, which moves its probabilities by some 1e-6.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fkd.crops.replay import InputSpec
from fkd.errors import ConfigError, TeacherError
from fkd.models.checkpoints import weights_sha256
from fkd.models.classes import match_classes, refuse_duplicates
from fkd.models.compiling import compile_network, explain_compiler_error
from fkd.models.devices import device_of
from fkd.models.folding import count_batch_norms, fold_batch_norms
from fkd.models.numerics import Autocast, precision
from fkd.models.preprocessing import Preprocessing
from fkd.models.trial import noise, try_network

TeacherOutput = Literal["logits", "features", "head"]
Activation = Literal["softmax", "sigmoid"]
"""What makes probabilities of logits: shared by the classes, or of each class by itself."""


def activate(logits: Tensor, activation: Activation) -> Tensor:
    """Probabilities of logits (B, C)."""
    return torch.sigmoid(logits) if activation == "sigmoid" else torch.softmax(logits, dim=1)


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
        class_names: of the columns of its outputs; of features, their numbers.
        output: what the columns are: logits of classes, features, or what a projection head says.
        license: of the weights; None if unknown.
        weight: its share in an ensemble.
        temperature: divides its logits before the softmax or the sigmoid.
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
        output: TeacherOutput = "logits",
        license: str | None = None,
        weights: str | None = None,
    ) -> None:
        """Takes over a model whose outputs are called `class_names`, and changes it for speed.

        `weights` is the SHA-256 of its weights, where they are those of a part of the model.

        Raises:
            ConfigError: two classes have one name, or the network cannot take crops of its size.
        """
        refuse_duplicates(class_names, f"teacher {name}")
        self.name = name
        self.preprocessing = preprocessing
        self.class_names = list(class_names)
        self.weight = weight
        self.temperature = temperature
        self.output = output
        self.license = license
        self._weights_sha256 = weights or weights_sha256(model.state_dict())
        self._head = list(class_names)
        self._columns: Tensor | None = None  # outputs in the order of class_names; None for all
        self.model = model.eval().requires_grad_(False)
        try_network(self.model, preprocessing, f"teacher {name}")
        self.num_folded = fold_batch_norms(self.model, self._example())
        self.num_unfolded = count_batch_norms(self.model)
        self.model.to(memory_format=torch.channels_last)

    @property
    def is_classifier(self) -> bool:
        """Whether the columns are classes."""
        return self.output == "logits"

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

    def compile(self, batch_size: int | None = None, autocast: Autocast | None = None) -> None:
        """Let torch.compile make its forward pass faster; outputs change in the last bits.

        Args:
            batch_size: compile for so many crops at once; by default when the first come.
            autocast: in which precision these will be.

        Raises:
            ConfigError: the network cannot be compiled.
        """
        compile_network(self.model, deterministic=True)
        if batch_size is None:
            return
        size = self.preprocessing.input_size
        crops = torch.zeros((batch_size, 3, size, size), dtype=torch.uint8)
        try:
            self.logits(crops.contiguous(memory_format=torch.channels_last), autocast=autocast)
        except RuntimeError as error:
            reason = explain_compiler_error(error)
            if reason is None:
                raise
            raise ConfigError(
                f"compile: torch.compile cannot compile teacher {self.name} ({reason}); leave out "
                "--compile"
            ) from error

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
        device = device_of(self.model)
        with torch.inference_mode(), precision(device, autocast):
            logits = network(self.preprocessing.normalize(crops.to(device))).to(torch.float32)
            if self._columns is not None:
                logits = logits[:, self._columns.to(device)]
            self._refuse_not_finite(logits, autocast)
        return logits.clone()  # outside inference mode: a loss may keep it for its backward pass

    def probabilities(
        self,
        crops: Tensor,
        *,
        autocast: Autocast | None = None,
        activation: Activation = "softmax",
    ) -> Tensor:
        """Those of its logits at its temperature, float32 (B, C); raises like `logits`."""
        return activate(self.logits(crops, autocast=autocast) / self.temperature, activation)

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
            **({} if self.is_classifier else {"output": self.output}),
            **({} if self.license is None else {"license": self.license}),
        }

    def _example(self) -> Tensor:
        """One crop of noise, always the same."""
        return noise(self.model, self.preprocessing, 1)

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
