"""Linear evaluation as papers do it: a linear layer trained on augmented crops of frozen features.

    sgd     S2-BNN's, after MoCo's: rate 0.1, batch 256, 100 epochs, a tenth at 60 and 80 %
    lars    SimSiam's: LARS, rate 0.1 * batch / 256, batch 4,096, 90 epochs, cosine

Both: momentum 0.9, no weight decay, weights from N(0, 0.01), bias 0, random-resized crops and
flips, the rate constant within an epoch. The backbone is in eval mode, so its statistics stay.

Source: S2-BNN (Shen et al., CVPR 2021) and its code; SimSiam (Chen and He, CVPR 2021) and its code;
LARS (You et al., 2017).
Differs: a batch has at most as many images as there are.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.optim.lars import Lars
from torch import Tensor, nn

from fkd.checks import refuse_unused, require_one_of, require_positive, require_whole
from fkd.crops.replay import InputSpec
from fkd.crops.sampling import CropConfig
from fkd.data.batches import CropCutter, load_batches
from fkd.data.crop_sources import CropRequest, FreshCropSource
from fkd.errors import ConfigError
from fkd.evaluation.classifier_state import ClassifierState
from fkd.evaluation.features import FeatureRequest
from fkd.evaluation.probes import LEARNING_RATES
from fkd.randomness import Purpose, permutations, stream_key

ProtocolName = Literal["sweep", "sgd", "lars"]
_MOMENTUM, _INITIAL_DEVIATION = 0.9, 0.01
_TRUST = 0.001  # the coefficient of LARS
_BASE_BATCH = 256  # that the rate of lars is given for
_DROPS = (0.6, 0.8)  # shares of the epochs
Progress = Callable[[int], None]  # so many more crops were used


@dataclass(frozen=True, kw_only=True)
class ProtocolConfig:
    """How the linear classifier is trained.

    Attributes:
        name: sweep, on features computed once, in seconds, with the learning rate that is best on
            held-out training images; sgd (S2-BNN's) or lars (SimSiam's), on new random crops in
            every epoch.
        epochs: by default 50 of sweep, 100 of sgd, 90 of lars.
        batch_size: images per step; by default 256, and 4,096 of lars.
        lr: learning rate; by default 0.1 of sgd, and of lars for 256 images. Not of sweep.
        learning_rates: that sweep tries.
        seed: of the held-out images, the order and the crops.
    """

    name: ProtocolName = "sweep"
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    learning_rates: tuple[float, ...] = LEARNING_RATES
    seed: int = 0

    def __post_init__(self) -> None:
        require_one_of(ProtocolName, "protocol.name", self.name)
        require_whole(1, "protocol.epochs", self.epochs)
        require_whole(1, "protocol.batch_size", self.batch_size)
        require_whole(0, "protocol.seed", self.seed)
        require_positive("protocol.lr", self.lr)
        for rate in self.learning_rates:
            require_positive("protocol.learning_rates", rate)
        if not self.learning_rates:
            raise ConfigError("protocol.learning_rates is empty; give at least one rate")
        unused = {"lr"} if self.name == "sweep" else {"learning_rates"}
        refuse_unused(self, unused, prefix="protocol.", user=f"protocol {self.name}")

    @property
    def num_epochs(self) -> int:
        """The epochs, given or the protocol's own."""
        return self.epochs or {"sweep": 50, "sgd": 100, "lars": 90}[self.name]

    def images_per_step(self, num_images: int) -> int:
        """The batch size, given or the protocol's own, of a set of so many images."""
        return min(self.batch_size or (4096 if self.name == "lars" else 256), num_images)

    def learning_rate(self, epoch: int, images_per_step: int) -> float:
        """The rate in an epoch of sgd or lars."""
        peak, done = self.lr or 0.1, epoch / self.num_epochs
        if self.name == "sgd":
            return peak * 0.1 ** sum(done >= drop for drop in _DROPS)
        return peak * images_per_step / _BASE_BATCH * 0.5 * (1.0 + math.cos(math.pi * done))


@dataclass(frozen=True, kw_only=True)
class LabeledRequest:
    """Images to train a classifier on, and the frozen network that gives their features.

    Attributes:
        request: the network and the images, whose labels are class ids.
        chosen: positions of the images that have a class, int64 (n,).
        num_features: D.
        num_classes: C.
    """

    request: FeatureRequest
    chosen: Tensor
    num_features: int
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where the work is done, and in which portions.

    Attributes:
        device: of the network.
        batch_size: crops in a forward pass.
        num_workers: threads that decode images; 0 decodes them when they are needed.
    """

    device: torch.device
    batch_size: int = 128
    num_workers: int = 0


def train_classifier(
    images: LabeledRequest,
    config: ProtocolConfig,
    machine: Machine,
    progress: Progress,
    folder: Path | None = None,
) -> nn.Linear:
    """A classifier of D features, trained by sgd or lars on new crops in every epoch.

    Args:
        images: to train on.
        config: the protocol.
        machine: where.
        progress: is told the number of further crops that were used.
        folder: keeps the classifier after every epoch, from which the same call resumes; None keeps
            nothing.

    Raises:
        ImageError: an image cannot be read.
        ConfigError: the loss is not finite.
        RunError: the classifier cannot be written.
    """
    classifier = new_classifier(images.num_features, images.num_classes, config.seed)
    classifier.to(machine.device)
    optimizer = build_optimizer(config.name, classifier)
    step_size = config.images_per_step(len(images.chosen))
    state = None if folder is None else ClassifierState(folder, _identity(images, config))
    done = 0 if state is None else state.restore(classifier, optimizer)
    progress(done * len(images.chosen))
    for epoch in range(done, config.num_epochs):
        lr = config.learning_rate(epoch, step_size)
        for group in optimizer.param_groups:
            group["lr"] = lr
        for features, labels in _batches(images, config, epoch, machine):
            loss = F.cross_entropy(classifier(features), labels)
            if not loss.isfinite():
                raise ConfigError(
                    f"protocol.lr: the classifier diverged in epoch {epoch + 1}, at a rate of "
                    f"{lr:.3g}; lower it"
                )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            progress(len(labels))
        if state is not None:
            state.keep(classifier, optimizer, epoch + 1)
    return classifier


def _identity(images: LabeledRequest, config: ProtocolConfig) -> dict[str, Any]:
    """What the classifier depends on."""
    source = images.request.source
    chosen = images.chosen.tolist()
    return {
        "features": images.request.identity,
        "chosen": chosen,
        "labels": [source.label(i) for i in chosen],
        "num_classes": images.num_classes,
        "protocol": asdict(config),
    }


def new_classifier(num_features: int, num_classes: int, seed: int) -> nn.Linear:
    """A linear layer with weights from N(0, 0.01) and bias 0."""
    skip_init: Any = nn.utils.skip_init  # else it would draw from the global generator
    classifier: nn.Linear = skip_init(nn.Linear, num_features, num_classes)
    generator = torch.Generator().manual_seed(seed)
    nn.init.normal_(classifier.weight, std=_INITIAL_DEVIATION, generator=generator)
    nn.init.zeros_(classifier.bias)
    return classifier


def build_optimizer(name: str, classifier: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum, for lars with LARS: the gradient of each tensor times 0.001 |w| / |g|.

    A tensor of zeros, such as the bias at first, keeps its gradient.
    """
    parameters = classifier.parameters()
    if name == "lars":
        optimizer: torch.optim.Optimizer = Lars(
            parameters, momentum=_MOMENTUM, trust_coeff=_TRUST, always_adapt=True
        )
        return optimizer
    return torch.optim.SGD(parameters, lr=0.0, momentum=_MOMENTUM)


def _batches(
    images: LabeledRequest, config: ProtocolConfig, epoch: int, machine: Machine
) -> Iterator[tuple[Tensor, Tensor]]:
    """Features (B, D) and labels (B,) of every step of an epoch, in an order of its own.

    A step may have more crops than a forward pass of the network.
    """
    request, chosen = images.request, images.chosen
    network = request.network.to(machine.device).eval()
    order = permutations(stream_key(config.seed), Purpose.IMAGE_ORDER, epoch, len(chosen))
    step_size = config.images_per_step(len(chosen))
    steps = [
        chosen[torch.from_numpy(order[i : i + step_size])].tolist()
        for i in range(0, len(order), step_size)
    ]
    portions = [
        step[i : i + machine.batch_size]
        for step in steps
        for i in range(0, len(step), machine.batch_size)
    ]
    crops = load_batches(
        _cutter(request, config),
        ([CropRequest(i, epoch, 1) for i in portion] for portion in portions),
        num_workers=machine.num_workers,
        pin_memory=False,
        workers="threads",
    )
    with closing(crops):
        for step in steps:
            features: list[Tensor] = []
            labels: list[Tensor] = []
            while sum(map(len, labels)) < len(step):
                batch = next(crops).to(machine.device)
                with torch.no_grad():
                    features.append(
                        network(request.preprocessing.normalize(batch.crops[0])).float()
                    )
                labels.append(batch.labels)
            yield torch.cat(features), torch.cat(labels)


def _cutter(request: FeatureRequest, config: ProtocolConfig) -> CropCutter:
    """Cuts random crops; of an image, crop number e is that of epoch e."""
    crops = FreshCropSource(request.source, CropConfig(seed=config.seed))
    look = request.preprocessing
    return CropCutter(request.source, crops, [InputSpec(look.input_size, look.interpolation)])
