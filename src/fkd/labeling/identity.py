"""The identity of a label store: everything that its bytes depend on, as JSON in its config."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from fkd.crops.augment import AugmentConfig
from fkd.data.canary import cpu_name
from fkd.data.decode import DECODER
from fkd.data.sources import ImageSource
from fkd.data.subset import MEMBER
from fkd.labeling.config import (
    LabelConfig,
    LabelMapsConfig,
    resolve_autocast,
    resolve_images_per_shard,
    stored_codec,
    stored_projection,
    stored_top_k,
)
from fkd.labels.codec_names import check_codec
from fkd.labels.codecs import Codec, TopKLogits
from fkd.models.compiling import BACKEND
from fkd.models.devices import describe_device
from fkd.models.ensemble import TeacherEnsemble
from fkd.models.numerics import Autocast
from fkd.store import form_members, keys_digest
from fkd.store.geometry import crops_member
from fkd.store.provenance import projection_members

_PACKAGES = ("fkd", "torch", "torchvision", "timm", "numpy", "pillow")


def label_identity(
    config: LabelConfig, source: ImageSource, teachers: TeacherEnsemble, batch_size: int
) -> dict[str, Any]:
    """The identity of a store of random crops.

    Raises:
        ConfigError: the codec keeps more classes than there are or has no compact form, or there
            is nothing to project.
    """
    form, names = config.form, teachers.class_names
    projection = stored_projection(config, len(names), is_classifier=teachers.is_classifier)
    if projection is not None:
        names = names[: projection.dims]  # they are not stored, how many there are counts
    codec = stored_codec(config, len(names), is_classifier=teachers.is_classifier)
    identity = _shared_members(source, names, codec, form, config.value_dtype) | {
        "num_crops": config.num_crops,
        "extras": {
            name: {"dtype": np.dtype(dtype).str[1:], "shape": list(shape)}
            for name, (dtype, shape) in config.teacher_augment.columns.items()
        },
        "images_per_shard": resolve_images_per_shard(
            config.images_per_shard, len(source), config.num_crops
        ),
        "crops": crops_member(config.crops),
        "teacher_augment": _augment_member(config.teacher_augment),
    }
    if not teachers.is_classifier:
        del identity["class_names"]
        identity["outputs"] = "features"
    if projection is not None:
        identity["projection"] = projection_members(projection)
    members = _teacher_members(teachers, batch_size, resolve_autocast(config))
    if config.compile:
        members["numerics"]["compiled"] = BACKEND
    return identity | members | _part(source, config.max_images)


def _augment_member(augment: AugmentConfig) -> dict[str, Any]:
    """Its values in terms of JSON, which has no tuples; a preset has turned into them."""
    member: dict[str, Any] = json.loads(json.dumps(asdict(augment)))
    del member["preset"]
    return member


def label_maps_identity(
    config: LabelMapsConfig,
    source: ImageSource,
    teachers: TeacherEnsemble,
    grid: tuple[int, int],
    batch_size: int,
) -> dict[str, Any]:
    """The identity of a store of label maps; `grid` is their rows and columns.

    Raises:
        ConfigError: more classes are kept than there are.
    """
    names = teachers.class_names
    codec = TopKLogits(stored_top_k(config, len(names)))
    members = map_identity(source, names, grid, codec, config.value_dtype, config.images_per_shard)
    return members | _teacher_members(teachers, batch_size, None) | _part(source, config.max_images)


def map_identity(
    source: ImageSource,
    class_names: Sequence[str],
    grid: tuple[int, int],
    codec: TopKLogits,
    value_dtype: str,
    images_per_shard: int | None,
) -> dict[str, Any]:
    """The identity of a store of label maps, without what is known of the teacher.

    Raises:
        ConfigError: more classes are kept than there are.
    """
    return _shared_members(source, class_names, codec, "map", value_dtype) | {
        "grid": list(grid),
        "num_crops": grid[0] * grid[1],
        "images_per_shard": resolve_images_per_shard(images_per_shard, len(source), 1),
    }


def crops_identity(
    source: ImageSource,
    class_names: Sequence[str],
    codec: Codec,
    value_dtype: str | None,
    num_crops: int,
    images_per_shard: int | None,
) -> dict[str, Any]:
    """The identity of a plain store of crops, without what is known of the teacher.

    Raises:
        ConfigError: more classes are kept than there are, or they have no such `value_dtype`.
    """
    return _shared_members(source, class_names, codec, "plain", value_dtype) | {
        "num_crops": num_crops,
        "extras": {},
        "images_per_shard": resolve_images_per_shard(images_per_shard, len(source), num_crops),
    }


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Libraries and hardware that made a store: not its identity, but a reason for last bits."""
    cpu = cpu_name()
    return {
        "cpu": cpu,
        "device": cpu if device.type == "cpu" else describe_device(device),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in _PACKAGES},
    }


def _shared_members(
    source: ImageSource,
    class_names: Sequence[str],
    codec: Codec,
    form: str,
    value_dtype: str | None,
) -> dict[str, Any]:
    """What the identity of every store says of its images, classes and labels."""
    check_codec(codec, len(class_names))
    return form_members(form, codec, len(class_names), value_dtype) | {
        "num_images": len(source),
        "num_classes": len(class_names),
        "class_names": list(class_names),
        "codec": codec.name,
        "keys_sha256": keys_digest(source.key(i) for i in range(len(source))),
        "decoder": DECODER,
    }


def _part(source: ImageSource, max_images: int | None) -> dict[str, Any]:
    """That a store is of a part of its images; nothing where all of them are labeled."""
    return {MEMBER: max_images} if getattr(source, "is_spread", False) else {}


def _teacher_members(
    teachers: TeacherEnsemble, batch_size: int, autocast: Autocast | None
) -> dict[str, Any]:
    """The teachers, and what the last bits of their outputs depend on."""
    return {
        "teachers": teachers.identity(),
        "numerics": {
            "dtype": "float32",
            "autocast": autocast,
            "batch_size": batch_size,
            "folded_batch_norms": [teacher.num_folded for teacher in teachers.teachers],
        },
    }
