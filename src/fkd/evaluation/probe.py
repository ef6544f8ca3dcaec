"""Linear evaluation: what the features of a frozen backbone are worth for classes.

The backbone is in eval mode throughout. Its features of all images are computed once and kept
(`fkd.evaluation.features`); k nearest neighbors and a linear classifier then take seconds. The
protocols of papers train the classifier on random crops instead (`fkd.evaluation.protocols`).
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

import numpy as np
import torch

from fkd.checks import require_positive, require_whole
from fkd.data.class_sets import refuse_several
from fkd.data.joining import map_classes, true_classes
from fkd.data.sources import ImagesConfig, ImageSource, open_source, refuse_same_folder, remarks_of
from fkd.errors import ConfigError
from fkd.evaluation.features import FeatureRequest, load_or_compute
from fkd.evaluation.probes import (
    MIN_IMAGES,
    Features,
    ProbeResult,
    count_right,
    knn_accuracy,
    linear_probe,
)
from fkd.evaluation.protocols import LabeledRequest, Machine, ProtocolConfig, train_classifier
from fkd.models.devices import resolve_device
from fkd.models.features import PooledFeatures
from fkd.models.lookup import find_backbone
from fkd.models.trial import try_network
from fkd.userfiles import settle_paths


@dataclass(frozen=True, kw_only=True)
class NeighborsConfig:
    """The vote of nearest neighbors.

    Attributes:
        k: training images that vote on each validation image.
        temperature: a vote counts exp(cosine / temperature).
    """

    k: int = 20
    temperature: float = 0.07

    def __post_init__(self) -> None:
        require_whole(1, "knn.k", self.k)
        require_positive("knn.temperature", self.temperature)


@dataclass(frozen=True)
class ProbeConfig:
    """A linear evaluation.

    Attributes:
        model: folder of a finished run; or a timm model, or "torchvision/NAME".
        images: the training images, in classes.
        val: the images to measure accuracy on, in the same classes.
        checkpoint: weights for the named model; by default its pretrained ones.
        input_size: side of the crops, pixels; by default the model's own.
        out: folder of the features, which are computed once and used again; null keeps none.
        knn: the vote of nearest neighbors.
        protocol: how the linear classifier is trained.
        batch_size: images in a forward pass of the backbone.
        num_workers: threads that decode images.
        device: cpu, cuda, cuda:1, mps, xpu; by default cuda if there is one.

    Example:
        >>> from fkd import ImagesConfig, ProbeConfig
        >>> config = ProbeConfig(
        ...     "run", images=ImagesConfig(root="photos"), val=ImagesConfig(root="photos-val")
        ... )
        >>> config.knn.k, config.protocol.name
        (20, 'sweep')
    """

    model: str
    _: KW_ONLY
    images: ImagesConfig
    val: ImagesConfig
    checkpoint: str | None = None
    input_size: int | None = None
    out: str | None = "probe-features"
    knn: NeighborsConfig = field(default_factory=NeighborsConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    batch_size: int = 128
    num_workers: int = 2
    device: str | None = None

    def __post_init__(self) -> None:
        require_whole(1, "input_size", self.input_size)
        require_whole(1, "batch_size", self.batch_size)
        require_whole(0, "num_workers", self.num_workers)
        settle_paths(self, "model", "checkpoint", "out")
        if self.out is not None:
            refuse_same_folder(self.out, self.images, self.val)


@dataclass(frozen=True, kw_only=True)
class ProbeReport:
    """What a linear evaluation found.

    Attributes:
        model: name of the network.
        weights: SHA-256 of all its weights.
        num_features: D.
        num_classes: classes of the images.
        num_images: training images that have a class.
        num_val_images: validation images that have a class.
        knn_top1: of the nearest neighbors, percent.
        protocol: how the linear classifier was trained.
        epochs: of it.
        linear: its accuracy.
    """

    model: str
    weights: str
    num_features: int
    num_classes: int
    num_images: int
    num_val_images: int
    knn_top1: float
    protocol: str
    epochs: int
    linear: ProbeResult


class ProbeProgress:
    """Is told how an evaluation goes; this one says nothing."""

    def remark(self, text: str) -> None:
        """What the user may want to know, a sentence."""

    def warn(self, text: str) -> None:
        """What is probably not what the user wants, a sentence."""

    def begin(self, what: str, total: int) -> None:
        """Another stage of so many steps begins."""

    def advance(self, count: int) -> None:
        """So many more steps are done."""


def probe(config: ProbeConfig, progress: ProbeProgress | None = None) -> ProbeReport:
    """Measure k nearest neighbors and a linear classifier on the features of a frozen backbone.

    Features that `config.out` holds are used again; after a kill the same call resumes.

    Raises:
        ConfigError: the model cannot be loaded; the images have no classes, a single one, classes
            without images, or others than the validation images; there are too few images.
        ImageError: an image cannot be read.
        RunError: the features, or the classifier of sgd and lars, cannot be written.

    Example:
        >>> from fkd import ImagesConfig, ProbeConfig, probe
        >>> from fkd.evaluation.probe import NeighborsConfig
        >>> from fkd.evaluation.protocols import ProtocolConfig
        >>> photos = ImagesConfig(root="photos")
        >>> report = probe(
        ...     ProbeConfig(
        ...         "test_resnet",
        ...         checkpoint="teacher.safetensors",
        ...         images=photos,
        ...         val=photos,  # images that are their own nearest neighbors
        ...         input_size=32,
        ...         out=None,
        ...         knn=NeighborsConfig(k=1),
        ...         protocol=ProtocolConfig(name="sgd", epochs=2),
        ...     )
        ... )
        >>> report.num_images, report.num_classes, report.knn_top1
        (15, 3, 100.0)
    """
    told = progress or ProbeProgress()
    device = resolve_device(config.device)
    train, val = _open(config)
    requests = _requests(config, train.source, val.source)
    machine = Machine(device=device, batch_size=config.batch_size, num_workers=config.num_workers)
    _tell_of_images(requests, told)
    features = [
        _features(config, request, images, machine, what, told)
        for request, images, what in zip(
            requests, (train, val), ("training images", "validation images"), strict=True
        )
    ]
    told.begin("nearest neighbors", 1)
    knn = knn_accuracy(features[0], features[1], config.knn.k, config.knn.temperature)
    told.advance(1)
    return ProbeReport(
        model=requests[0].name,
        weights=str(requests[0].members["weights"]),
        num_features=features[0].values.shape[1],
        num_classes=len(train.class_names),
        num_images=len(features[0]),
        num_val_images=len(features[1]),
        knn_top1=knn,
        protocol=config.protocol.name,
        epochs=config.protocol.num_epochs,
        linear=_linear(config, requests[0], train, features, machine, told),
    )


def _tell_of_images(requests: Sequence[FeatureRequest], told: ProbeProgress) -> None:
    """What the user may want to know of the training and the validation images."""
    remarks = [remark for request in requests for remark in remarks_of(request.source)]
    for remark in dict.fromkeys(remarks):  # both may be the same images
        told.remark(remark)
    if requests[0].identity == requests[1].identity:
        told.warn("val has the same images as images, so accuracy is that of images trained on")


@dataclass(frozen=True, kw_only=True)
class _Labeled:
    """Images of a source that have a class.

    Attributes:
        source: the images.
        class_names: of the training images.
        rows: positions of those that have a class, int64 (n,).
        labels: their classes as positions in `class_names`, int64 (n,).
    """

    source: ImageSource
    class_names: list[str]
    rows: torch.Tensor
    labels: torch.Tensor


def _open(config: ProbeConfig) -> tuple[_Labeled, _Labeled]:
    """The training and the validation images, with the same classes.

    Raises:
        ConfigError: they have none, or others, or there are too few images.
    """
    sources = open_source(config.images), open_source(config.val)
    for name, source in zip(("images", "val"), sources, strict=True):
        refuse_several(source)
        if source.class_names is None:
            raise ConfigError(
                f"{name}: {source.root} has no classes, and a probe measures how well features "
                "tell classes apart; give images in class folders"
            )
    names = list(sources[0].class_names or ())
    if len(names) < 2:
        raise ConfigError(
            f"images: {sources[0].root} has one class only ({', '.join(names)}); give images of at "
            "least two"
        )
    _require_same_classes(*sources)
    train, val = (_labeled(source, names) for source in sources)
    for name, images in (("images", train), ("val", val)):
        _require_images(name, images)
    _require_enough(config, len(train.rows))
    return train, val


def _requests(config: ProbeConfig, *sources: ImageSource) -> list[FeatureRequest]:
    """The features of each source under the backbone, which has been tried with one input.

    Raises:
        ConfigError: the model cannot be loaded, or cannot take its input.
    """
    loaded = find_backbone(config.model, config.checkpoint, input_size=config.input_size)
    network = PooledFeatures(loaded.model, f"model {loaded.name}")
    try_network(loaded.model, loaded.preprocessing, f"model {loaded.name}")
    return [
        FeatureRequest(network, loaded.preprocessing, source, loaded.name) for source in sources
    ]


def _require_same_classes(train: ImageSource, val: ImageSource) -> None:
    ours, theirs = set(train.class_names or ()), set(val.class_names or ())
    if ours == theirs:
        return
    parts = [
        f"{len(lacks)} that {root} lacks ({_some(sorted(lacks))})"
        for lacks, root in ((ours - theirs, val.root), (theirs - ours, train.root))
        if lacks
    ]
    raise ConfigError(
        f"val: classes are matched by name, and there are {' and '.join(parts)}; give images of "
        "the same classes"
    )


def _labeled(source: ImageSource, names: list[str]) -> _Labeled:
    labels = true_classes(source, map_classes(source.class_names, names))
    rows = np.flatnonzero(labels >= 0)
    return _Labeled(
        source=source,
        class_names=names,
        rows=torch.from_numpy(rows),
        labels=torch.from_numpy(labels[rows]),
    )


def _require_images(name: str, images: _Labeled) -> None:
    counts = torch.bincount(images.labels, minlength=len(images.class_names))
    empty = [images.class_names[i] for i in (counts == 0).nonzero()[:, 0].tolist()]
    if empty:
        raise ConfigError(
            f"{name}: {images.source.root} has no images of {len(empty)} of its "
            f"{len(images.class_names)} classes ({_some(empty)}); add images, or remove the classes"
        )


def _require_enough(config: ProbeConfig, num_images: int) -> None:
    if config.knn.k > num_images:
        raise ConfigError(
            f"knn.k is {config.knn.k}, but there are {num_images} training images in "
            f"{config.images.root}; give at most that"
        )
    if config.protocol.name == "sweep" and num_images < MIN_IMAGES:
        raise ConfigError(
            f"images: a linear probe needs {MIN_IMAGES} training images, to hold some out, but "
            f"there are {num_images} in {config.images.root}; add images, or use protocol.name sgd"
        )


def _features(
    config: ProbeConfig,
    request: FeatureRequest,
    images: _Labeled,
    machine: Machine,
    what: str,
    told: ProbeProgress,
) -> Features:
    """Features and labels of the images that have a class, on the device."""
    told.begin(what, len(images.source))
    values = load_or_compute(
        request,
        None if config.out is None else Path(config.out),
        device=machine.device,
        batch_size=machine.batch_size,
        num_workers=machine.num_workers,
        progress=told.advance,
    )
    return Features(values[images.rows], images.labels).to(machine.device)


def _linear(
    config: ProbeConfig,
    request: FeatureRequest,
    train: _Labeled,
    features: list[Features],
    machine: Machine,
    told: ProbeProgress,
) -> ProbeResult:
    """The accuracy of a linear classifier on the validation features."""
    protocol, epochs = config.protocol, config.protocol.num_epochs
    if protocol.name == "sweep":
        told.begin("linear classifier", 2 * epochs)
        return linear_probe(
            *features,
            learning_rates=protocol.learning_rates,
            epochs=epochs,
            batch_size=protocol.images_per_step(len(features[0])),
            seed=protocol.seed,
            progress=told.advance,
        )
    told.begin("linear classifier", epochs * len(train.rows))
    images = LabeledRequest(
        request=request,
        chosen=train.rows,
        num_features=features[0].values.shape[1],
        num_classes=len(train.class_names),
    )
    folder = None if config.out is None else Path(config.out)
    classifier = train_classifier(images, protocol, machine, told.advance, folder)
    val = features[1]
    with torch.no_grad():
        right = count_right(classifier(val.values), val.labels)
    top1, top5 = (100.0 * count / len(val) for count in right.tolist())
    peak = protocol.learning_rate(0, protocol.images_per_step(len(train.rows)))
    return ProbeResult(top1, top5, peak, {})


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
