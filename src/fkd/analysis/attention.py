"""Where several models look on the same images, and how sure they are (Figs. 6 and 7).

Each model sees the center crop of its own evaluation. Some images are shown with their maps; of
more images, two figures are measured that go with the paper's pictures: the area of the map, and
the probability of the predicted class.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fkd.analysis.attention_config import (
    PREDICTED,
    TRUTH,
    AttentionConfig,
    choose_images,
    label_models,
    layers_of,
)
from fkd.analysis.grad_cam import GradCam, Layer, enlarge_maps, normalize_maps, require_captum
from fkd.data.ahead import look_ahead, single_threaded_pool
from fkd.data.numbered import class_names_among
from fkd.data.sources import ImageSource, load, open_source, remarks_of
from fkd.errors import ConfigError
from fkd.evaluation.accuracy import center_crop
from fkd.models.architectures.embedders import Embedder
from fkd.models.classes import display_names, match_classes, numbered_classes
from fkd.models.devices import resolve_device
from fkd.models.lookup import find_model
from fkd.models.trial import try_network
from fkd.models.zoo import LoadedModel

AREA_ABOVE = 0.5
"""The area of a map is the share of it above this, where its least value is 0, its largest 1."""

Progress = Callable[[int, int], None]  # so many of so many images, over all models


@dataclass(frozen=True)
class Explanation:
    """What one model sees in one image.

    Attributes:
        crop: that it was given, uint8 (3, S, S).
        predicted: its most probable class, for people.
        probability: of that.
        target: the class of the map, for people.
        target_probability: of that.
        map: Grad-CAM from 0 to 1, float32 (h, w); all 0 where nothing speaks for the class.
        area: share of it above 0.5 at the size of the crop; NaN where it has one value.
        guided: guided backpropagation, float32 (3, S, S); None for a network without any ReLU.
    """

    crop: Tensor
    predicted: str
    probability: float
    target: str
    target_probability: float
    map: Tensor
    area: float
    guided: Tensor | None

    @property
    def guided_cam(self) -> Tensor | None:
        """Guided Grad-CAM, the product of both, float32 (3, S, S)."""
        if self.guided is None:
            return None
        return self.guided * enlarge_maps(self.map[None], self.guided.shape[-1])


@dataclass(frozen=True)
class ModelAttention:
    """One model on all images.

    Attributes:
        model: as the user wrote it.
        label: what a figure calls it.
        network: its name.
        layer: of the maps.
        shown: one per image of the figure.
        areas: of the measured images, float64 (n,), NaN where a map has one value.
        confidences: probability of the predicted class, float64 (n,).
        remarks: what the user may want to know, a sentence each.
    """

    model: str
    label: str
    network: str
    layer: Layer
    shown: list[Explanation]
    areas: np.ndarray
    confidences: np.ndarray
    remarks: list[str] = field(default_factory=list)

    @property
    def has_guided(self) -> bool:
        """Whether there is guided backpropagation."""
        return self.shown[0].guided is not None


@dataclass(frozen=True)
class AttentionReport:
    """All models on the same images.

    Attributes:
        config: the settings.
        source: the images.
        shown: positions of those in the figure.
        measured: positions of the others.
        models: in the order of the settings.
        unreadable: names of images that were drawn and passed over, as they cannot be read.
    """

    config: AttentionConfig
    source: ImageSource
    shown: list[int]
    measured: list[int]
    models: list[ModelAttention]
    unreadable: list[str] = field(default_factory=list)

    @property
    def remarks(self) -> list[str]:
        """What the user may want to know, a sentence each."""
        remarks = list(remarks_of(self.source))
        if self.unreadable:
            count, first = len(self.unreadable), self.unreadable[0]
            remarks.append(f"{count:,} images cannot be read, such as {first}")
        return remarks + [remark for model in self.models for remark in model.remarks]


def compare_attention(
    config: AttentionConfig, progress: Progress = lambda done, total: None
) -> AttentionReport:
    """Maps, areas and confidences of all models on the same images.

    Raises:
        ConfigError: captum is not installed; a model cannot be loaded, has no classes, no such
            layer or not the class; an image is not there.
        ImageError: an image of `shown` cannot be read.
    """
    require_captum()
    device = resolve_device(config.device)
    source = open_source(config.images)
    shown, measured, unreadable = choose_images(source, config)
    done, total = 0, len(config.models) * (len(shown) + len(measured))

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    progress(0, total)
    report = AttentionReport(config, source, shown, measured, [], unreadable)
    labels = label_models(config.models)
    for word, label, layer in zip(config.models, labels, layers_of(config), strict=True):
        seen = _Seen(config, source, word, label, _load(word, config), device)
        report.models.append(_explain(seen, layer, shown, measured, advance))
    return report


@dataclass(frozen=True)
class _Seen:
    """A loaded model, and what it is shown."""

    config: AttentionConfig
    source: ImageSource
    word: str
    label: str
    loaded: LoadedModel
    device: torch.device

    @property
    def class_names(self) -> list[str]:
        """Of the outputs."""
        return self.loaded.class_names or numbered_classes(self.loaded.num_classes)

    def crops(self, positions: Sequence[int]) -> Tensor:
        """Center crops of images, uint8 (B, 3, S, S)."""
        images = [load(self.source, i).image for i in positions]
        return torch.stack([center_crop(image, self.loaded.preprocessing) for image in images])

    def batches(self, positions: Sequence[int]) -> Iterator[tuple[Sequence[int], Tensor]]:
        """The images in batches, with their crops; built ahead."""
        size, workers = self.config.batch_size, self.config.num_workers
        parts = [positions[i : i + size] for i in range(0, len(positions), size)]
        if workers == 0:
            yield from ((part, self.crops(part)) for part in parts)
            return
        with single_threaded_pool(workers) as pool:
            yield from zip(parts, look_ahead(pool, self.crops, parts, workers), strict=True)

    def normalize(self, crops: Tensor) -> Tensor:
        """As the model expects them, on its device."""
        return self.loaded.preprocessing.normalize(crops.to(self.device))


def _load(word: str, config: AttentionConfig) -> LoadedModel:
    """A classifier by the word of the user.

    Raises:
        ConfigError: there is none, or it cannot take its crops.
    """
    loaded = find_model(word, config.checkpoint, input_size=config.input_size)
    if loaded.num_classes == 0 or isinstance(loaded.model, Embedder):
        raise ConfigError(
            f"{word} gives embeddings and no classes, so there is no class to make a map of; give "
            "models with a classifier"
        )
    try_network(loaded.model, loaded.preprocessing, f"model {loaded.name}")
    return loaded


def _explain(
    seen: _Seen,
    layer: str | None,
    shown: Sequence[int],
    measured: Sequence[int],
    advance: Callable[[int], None],
) -> ModelAttention:
    """One model on all images."""
    model = seen.loaded.model.to(seen.device)
    example = seen.normalize(seen.crops(shown[:1]))
    cam = GradCam(model, example, layer, seen.word)
    target = _target_of(seen, [*shown, *measured])
    explanations: list[Explanation] = []
    for part, crops in seen.batches(shown):
        explanations += _explain_batch(seen, cam, crops, partial(target, part))
        advance(len(part))
    areas, confidences = [], []
    for part, crops in seen.batches(measured):
        images = seen.normalize(crops)
        logits = cam.logits(images)
        confidences.append(logits.softmax(1).amax(1).double().cpu())
        areas.append(_areas(cam.maps(images, target(part, logits)), crops.shape[-1]).cpu())
        advance(len(part))
    result = ModelAttention(
        seen.word,
        seen.label,
        seen.loaded.name,
        cam.layer,
        explanations,
        torch.cat(areas).numpy(),
        torch.cat(confidences).numpy(),
    )
    result.remarks.extend(_remarks(result, cam.others))
    return result


def _explain_batch(
    seen: _Seen, cam: GradCam, crops: Tensor, target: Callable[[Tensor], Tensor]
) -> list[Explanation]:
    """The explanations of some images."""
    images = seen.normalize(crops)
    logits = cam.logits(images)
    classes = target(logits)
    raw = cam.maps(images, classes)
    guided = cam.guided(images, classes)
    names = display_names(seen.class_names)
    probabilities, areas = logits.softmax(1).cpu(), _areas(raw, crops.shape[-1]).tolist()
    best, maps = probabilities.argmax(1).tolist(), normalize_maps(raw).cpu()
    return [
        Explanation(
            crops[i],
            names[best[i]],
            float(probabilities[i, best[i]]),
            names[c],
            float(probabilities[i, c]),
            maps[i],
            areas[i],
            None if guided is None else guided[i].cpu(),
        )
        for i, c in enumerate(classes.tolist())
    ]


def _areas(maps: Tensor, side: int) -> Tensor:
    """Share of each map (B, h, w) above 0.5 at the size of the crop, float64 (B,); NaN for a map
    with one value, as where nothing in the image speaks for the class."""
    normalized = normalize_maps(maps)
    areas = (enlarge_maps(normalized, side) > AREA_ABOVE).double().mean((1, 2))
    return torch.where(normalized.amax((1, 2)) > 0, areas, torch.nan)


def _target_of(seen: _Seen, positions: Sequence[int]) -> Callable[[Sequence[int], Tensor], Tensor]:
    """From positions and logits (B, C) to the classes of the maps, int64 (B,).

    Raises:
        ConfigError: the model does not know a class, or an image has none.
    """
    wanted, source = seen.config.target, seen.source
    if wanted == PREDICTED:
        return lambda part, logits: logits.argmax(1)
    if wanted != TRUTH:
        output = _output_of(seen, wanted)
        return lambda part, logits: torch.full_like(logits[:, 0], output, dtype=torch.long)
    outputs: dict[int, int] = {}
    names = class_names_among(source, seen.class_names)
    for i in positions:
        label = source.label(i)
        if label < 0 or names is None:
            raise ConfigError(
                f"target truth: {source.name(i)} has no class; use --target predicted, or give "
                "images in class folders"
            )
        if label not in outputs:
            outputs[label] = _output_of(seen, names[label])
    return lambda part, logits: torch.tensor(
        [outputs[source.label(i)] for i in part], device=logits.device
    )


def _output_of(seen: _Seen, name: str) -> int:
    """The output of the model for a class.

    Raises:
        ConfigError: it has none, or several may be meant.
    """
    try:
        return match_classes([name], seen.class_names)[0]
    except ConfigError as error:
        examples = ", ".join(display_names(seen.class_names[:3]))
        if "may mean" in str(error):
            raise ConfigError(f"target: {error}") from error
        raise ConfigError(
            f"target: {seen.word} does not know the class {name!r} (it knows "
            f"{seen.loaded.num_classes:,} such as {examples}); use --target predicted, or a class "
            "that all models know"
        ) from error


def _remarks(result: ModelAttention, others: list[str]) -> list[str]:
    """What is not to be expected of the maps of a model."""
    remarks = []
    label = result.label
    if not result.has_guided:
        instead = f" but {', '.join(others)}" if others else ""
        remarks.append(
            f"{label} has no ReLU{instead}, and guided "
            "backpropagation is of ReLUs only, so its guided columns are left out"
        )
    elif others:
        remarks.append(
            f"{label} has other activations than ReLU ({', '.join(others)}), through which guided "
            "backpropagation is the plain gradient"
        )
    empty = int(np.isnan(result.areas).sum())
    if empty:
        remarks.append(
            f"{label}: {empty:,} of {len(result.areas):,} maps are empty, because no position of "
            f"{result.layer.name} speaks for the class; they are not in the mean area"
        )
    if result.layer.grid.side < 4:
        side = result.layer.grid.side
        remarks.append(
            f"{label}: maps of {side}x{side} positions are coarse; --layer takes an earlier layer, "
            "--input_size larger crops"
        )
    return remarks
