"""Label files of Apple's dataset reinforcement (ml-dr), one for each image.

    ROOT/123.pth.tar      by torch.save: (123, [sample, sample, ...]), no tar archive
        sample: "params"  [(top, left, height, width), flip], in pixels
                "prob"    (p of K classes, their ids), not sorted

The number is the position of the image in the order of torchvision's ImageFolder. Only sets of
random crops and flips are read: with RandAugment, erasing or mixing, the teacher saw other pixels
than a crop box says. TinyViT's files hold a seed and no box, so they cannot be read without its
whole pipeline.

Source: Reinforce Data, Multiply Impact (Faghri et al., ICCV 2023) and apple/ml-dr.
"""

import os
from typing import Any

import numpy as np

from fkd.errors import FormatError
from fkd.labeling.foreign.crops import (
    ForeignCrops,
    largest_first,
    require_classes,
    require_inside,
    require_probabilities,
)
from fkd.labeling.foreign.pickles import read_foreign
from fkd.labels.codecs import Codec, MarginalSmoothing

SUFFIX = ".pth.tar"


def read_reinforced(data: bytes, path: str, num_classes: int, codec: Codec | None) -> ForeignCrops:
    """The labels of one image.

    Args:
        data: the file, called by the position of its image, which it has inside, too.
        path: of the file.
        num_classes: C.
        codec: by default ms:K, what ml-dr trains with.

    Raises:
        FormatError: the file is none of these, its crops were augmented otherwise, or its values
            are impossible.
    """
    content = read_foreign(data, path)
    if not isinstance(content, tuple | list) or len(content) != 2:
        raise FormatError(f"{path}: it holds no number of an image and samples")
    number, samples = content
    if os.path.basename(path) != f"{number}{SUFFIX}":
        raise FormatError(f"{path}: it has the labels of image {number!r:.20}; it was renamed")
    if not isinstance(samples, list) or not samples:
        raise FormatError(f"{path}: it has no samples")
    read = [_read_sample(sample, path) for sample in samples]
    boxes = np.array([box for box, _, _, _ in read], np.int64)
    kept = {len(ids) for _, _, ids, _ in read}
    if len(kept) > 1:
        raise FormatError(f"{path}: its samples keep different numbers of classes")
    ids = require_classes(np.array([ids for _, _, ids, _ in read]), num_classes, path)
    values = require_probabilities(np.array([p for _, _, _, p in read], np.float64), path)
    return ForeignCrops(
        path,
        lambda size: require_inside(boxes, size, path),
        np.array([flip for _, flip, _, _ in read]),
        codec or MarginalSmoothing(kept.pop()),
        largest_first(ids, values),
        False,
    )


def _read_sample(sample: Any, path: str) -> tuple[list[int], bool, list[int], list[float]]:
    """Box, flip, class ids and probabilities."""
    if not isinstance(sample, dict) or not {"params", "prob"} <= sample.keys():
        raise FormatError(f"{path}: a sample has no params and prob")
    params, prob = sample["params"], sample["prob"]
    if not _is_crop(params):
        raise FormatError(
            f"{path}: a sample was augmented by more than a random crop and a flip, so its crop "
            "box does not say what the teacher saw; only sets of random crops (RRC) are imported"
        )
    if not isinstance(prob, tuple | list) or len(prob) != 2:
        raise FormatError(f"{path}: a label is no pair of probabilities and class ids")
    values, ids = ([*_numbers(part)] for part in prob)
    if len(values) != len(ids) or not ids:
        raise FormatError(f"{path}: a label has {len(values)} probabilities of {len(ids)} classes")
    if not all(isinstance(n, int | float) for n in (*values, *ids)):
        raise FormatError(f"{path}: a label holds something else than numbers")
    return [int(n) for n in params[0]], bool(params[1]), ids, values


def _is_crop(params: Any) -> bool:
    """Whether these are the parameters of a crop box and a flip, and of nothing else."""
    if not isinstance(params, tuple | list) or len(params) != 2:
        return False
    box, flip = params
    return (
        isinstance(box, tuple | list)
        and len(box) == 4
        and all(type(n) is int for n in box)
        and isinstance(flip, bool | int)
        and flip in (0, 1)
    )


def _numbers(part: Any) -> list[Any]:
    """The numbers of a list, a tuple or an array."""
    if isinstance(part, np.ndarray):
        return list(part.reshape(-1).tolist())
    return list(part) if isinstance(part, list | tuple) else []
