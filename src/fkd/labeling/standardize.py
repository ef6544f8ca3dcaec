"""Makes the embeddings of several teachers comparable, by crops of the images that they label.

One crop of each of up to 256 images from all over the source is measured; the result is rounded and
recorded in the store's config. A run that is resumed takes what is recorded, so that its bytes are
those of one run, whatever the machine.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fkd.crops.replay import replay, sample_crops
from fkd.data.sources import ImageSource, load, spread_images
from fkd.errors import ConfigError, FKDError, ImageError
from fkd.labeling.config import LabelConfig, resolve_autocast
from fkd.models.ensemble import Standardization, TeacherEnsemble
from fkd.store import LabelStore

_MAX_IMAGES = 256
_DIGITS = 4  # significant ones; last bits of outputs depend on the machine


def standardize(
    teachers: TeacherEnsemble, config: LabelConfig, source: ImageSource, batch_size: int
) -> TeacherEnsemble:
    """The teachers with their embeddings standardized, where there are several; else as they are.

    Raises:
        ConfigError: a teacher says the same of all crops.
        TeacherError: an output is not finite.
    """
    if len(teachers.teachers) < 2 or teachers.is_classifier:
        return teachers
    recorded = _recorded(config.out)
    if len(recorded) == len(teachers.teachers):
        return teachers.standardized(recorded)
    return teachers.standardized(_measure(teachers, config, source, batch_size))


def recorded_in(store: LabelStore) -> list[Standardization]:
    """What a store says of each of its teachers; empty if it does not say it of all, or of one."""
    known = [teacher.standardization for teacher in store.provenance.teachers]
    found = [Standardization(*values) for values in known if values is not None]
    return found if len(found) == len(known) > 1 else []


def _recorded(path: str) -> list[Standardization]:
    try:
        return recorded_in(LabelStore.open(path, partial=True))
    except FKDError:
        return []  # there is none yet; whatever else is wrong with it, the writer says so


def _measure(
    teachers: TeacherEnsemble, config: LabelConfig, source: ImageSource, batch_size: int
) -> list[Standardization]:
    rows = spread_images(source, _MAX_IMAGES)
    outputs: list[list[Tensor]] = [[] for _ in teachers.teachers]
    for first in range(0, len(rows), batch_size):
        views = _crops(teachers, config, source, rows[first : first + batch_size])
        if not views:
            continue
        embeddings = teachers.embeddings(views, autocast=resolve_autocast(config))
        for kept, embedding in zip(outputs, embeddings, strict=True):
            kept.append(embedding.cpu().double())
    return [
        _standardization(torch.cat(kept), teacher.name) if kept else Standardization(0.0, 1.0)
        for kept, teacher in zip(outputs, teachers.teachers, strict=True)
    ]


def _crops(
    teachers: TeacherEnsemble, config: LabelConfig, source: ImageSource, rows: Sequence[int]
) -> list[Tensor]:
    """The first crop of each of these images that can be read, once for each view."""
    crops: list[list[Tensor]] = []
    for row in rows:
        try:
            loaded = load(source, row)
        except ImageError:
            continue
        records = sample_crops(
            config.crops, loaded.content_key, loaded.size, np.arange(1), config.teacher_augment
        )
        crops.append(
            [replay(loaded.image, records, v.size, v.interpolation) for v in teachers.views]
        )
    return [torch.cat(view) for view in zip(*crops, strict=True)]


def _standardization(embeddings: Tensor, name: str) -> Standardization:
    """Of embeddings (n, D), float64."""
    mean = embeddings.mean()
    length = (embeddings - mean).square().sum(dim=1).mean().sqrt()
    if not float(length) > 0:
        raise ConfigError(f"teacher {name} gives the same number for every crop; check its weights")
    decimals = _DIGITS - math.ceil(math.log10(float(length)))  # a mean of nearly 0 has no more
    rounded = round(float(mean), decimals) + 0.0  # of -0.0 and 0.0 only the latter is written
    return Standardization(rounded, round(float(length), decimals))
