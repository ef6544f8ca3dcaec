"""One pass over the images of a set: everything that is measured of a model, from its outputs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fkd.data.ahead import map_ahead
from fkd.data.sources import ImageSource, load
from fkd.errors import ConfigError
from fkd.evaluation.accuracy import center_crop
from fkd.evaluation.metrics import (
    Comparison,
    Predictions,
    compare_multi_label,
    compare_outputs,
    predict,
)
from fkd.evaluation.reference import Reference, ReferencePass, SharedClasses
from fkd.evaluation.sets import Truth
from fkd.models.numerics import precision
from fkd.models.preprocessing import Preprocessing
from fkd.models.zoo import LoadedModel

Progress = Callable[[int], None]  # so many more images are done


@dataclass(frozen=True, kw_only=True)
class Pass:
    """A model on a set.

    Attributes:
        loaded: the model.
        owner: what messages call it.
        set_name: of the set.
        source: the images.
        truth: which of them count, and what is right.
        reference: the teacher to compare with, if any.
        shared: the classes that both have.
        is_last: whether no other model follows on the set, for which to keep the teacher's outputs.
    """

    loaded: LoadedModel
    owner: str
    set_name: str
    source: ImageSource
    truth: Truth
    reference: Reference | None = None
    shared: SharedClasses | None = None
    is_last: bool = True


@torch.inference_mode()
def run_pass(
    one: Pass,
    *,
    device: torch.device,
    batch_size: int,
    num_workers: int,
    progress: Progress = lambda num_images: None,
) -> tuple[Predictions, Comparison | None]:
    """Predictions, and the comparison with the teacher, of all images that count, on the CPU.

    The model is in eval mode, and on the CPU again, afterwards.

    Raises:
        ImageError: an image cannot be read.
        ConfigError: an output of the model is not finite.
        TeacherError: one of the teacher is not.
    """
    model = one.loaded.model.eval().to(device).to(memory_format=torch.channels_last)
    chosen, reference = one.truth.chosen, one.reference
    teacher, looks = None, [one.loaded.preprocessing]
    if reference is not None:
        teacher = ReferencePass(reference, one.set_name, chosen, keep=not one.is_last)
        looks += [reference.preprocessing] if teacher.needs_crops else []
    predictions: list[Predictions] = []
    comparisons: list[Comparison] = []
    first = 0
    for crops in load_crops(one.source, chosen, looks, batch_size, num_workers):
        rows = slice(first, first + len(crops[0]))
        with precision(device, None):
            logits = model(looks[0].normalize(crops[0].to(device, non_blocking=True))).float()
        _refuse_not_finite(one, logits, first)
        predictions.append(_predict(one.truth, logits, rows))
        if teacher is not None:
            comparisons.append(_compare(one, teacher.logits(crops[-1], rows).to(device), logits))
        first = rows.stop
        progress(len(crops[0]))
    model.to("cpu")
    if teacher is None:
        return Predictions.join(predictions), None
    teacher.finish()
    agree, divergence = map(torch.cat, zip(*comparisons, strict=True))
    return Predictions.join(predictions), Comparison(agree, divergence)


def load_crops(
    source: ImageSource,
    rows: np.ndarray,
    looks: Sequence[Preprocessing],
    batch_size: int,
    num_workers: int,
) -> Iterator[list[Tensor]]:
    """Center crops of images, once for each preprocessing, uint8 (B, 3, S, S), built ahead."""
    parts = [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
    return map_ahead(partial(_build, source, looks), parts, num_workers)


def _build(source: ImageSource, looks: Sequence[Preprocessing], rows: np.ndarray) -> list[Tensor]:
    """Every image is decoded once; equal preprocessings share their crops."""
    images = [load(source, i).image for i in rows.tolist()]
    crops = {
        look: torch.stack([center_crop(image, look) for image in images]).contiguous(
            memory_format=torch.channels_last
        )
        for look in looks
    }
    return [crops[look] for look in looks]


def _predict(truth: Truth, logits: Tensor, rows: slice) -> Predictions:
    """Predictions among the ranked outputs, on the CPU."""
    if truth.outputs is not None:
        logits = logits[:, torch.from_numpy(truth.outputs).to(logits.device)]
    found = predict(logits, torch.from_numpy(truth.labels[rows]).to(logits.device))
    return Predictions(
        found.predicted.cpu(),
        found.confidence.cpu(),
        found.top1.cpu(),
        found.top5.cpu(),
        logits.cpu() if truth.multi_label else None,
    )


def _compare(one: Pass, of_teacher: Tensor, logits: Tensor) -> Comparison:
    """The comparison over the classes that both have, on the CPU."""
    assert one.reference is not None
    assert one.shared is not None  # known with the teacher
    shared = one.shared.to(logits.device)
    compare = compare_multi_label if one.truth.multi_label else compare_outputs
    found = compare(one.reference.scale(of_teacher, shared), logits[:, shared.model])
    return Comparison(found.agree.cpu(), found.divergence.cpu())


def _refuse_not_finite(one: Pass, logits: Tensor, first: int) -> None:
    bad = (~logits.isfinite().all(dim=1)).nonzero()
    if len(bad):
        image = one.source.name(int(one.truth.chosen[first + int(bad[0, 0])]))
        raise ConfigError(
            f"model: {one.owner} gives NaN or infinity for {image}; its weights are those of a run "
            "that diverged, or do not belong to it"
        )
