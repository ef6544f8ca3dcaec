"""What is evaluated on: images, and which outputs of a model are right for each of them.

    kind        right is                                      ranked are
    classes     the class of the image, matched by name       all classes of the model
    real        any of the image's ReaL labels                all 1,000 classes of ImageNet
    imagenet-a  the class of the image                        the 200 classes of ImageNet-A
    imagenet-r  the class of the image                        the 200 classes of ImageNet-R

Images with several classes each need no kind: all count, also those with none, and mean average
precision is measured instead of accuracy. Nor does ImageNetV2: its folders are numbers, which
`fkd.data.numbered` takes for class ids.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, Literal, get_args

import numpy as np

from fkd.checks import require_one_of
from fkd.data.class_sets import is_multi_label
from fkd.data.imagenet import Subset, real_labels, subset_ids, validation_number, wordnet_ids
from fkd.data.sources import ImagesConfig, ImageSource
from fkd.errors import ConfigError
from fkd.evaluation.accuracy import LabeledImages
from fkd.evaluation.multi_label import MultiLabelImages
from fkd.store.canonical import printable

Kind = Literal["classes", "real", "imagenet-a", "imagenet-r"]

_CIFAR = ("cifar10", "cifar100")
_PREFIXES = (*get_args(Kind)[1:], *_CIFAR)


@dataclass(frozen=True, kw_only=True)
class SetConfig(ImagesConfig):
    """Images to evaluate on, and what is right for them.

    Attributes:
        kind: classes are those of the images; real takes the ReaL labels of ImageNet's validation
            images, found by the number in the name of the file; imagenet-a and imagenet-r rank the
            200 classes of these sets only.

    Example:
        >>> from fkd.evaluation.sets import SetConfig
        >>> SetConfig(root="imagenet/val", kind="real").split
        'train'
    """

    kind: Kind = "classes"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of(Kind, "kind", self.kind)


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Which images of a set count for one model, and which of its outputs are right.

    Attributes:
        chosen: positions of the images that count, int64 (n,).
        labels: the right classes of each, as positions in `class_names`, padded with -1, int64
            (n, L); L is 0 where the images have no classes.
        outputs: the model's outputs that are ranked, int64 (C,); None for all.
        class_names: of the ranked outputs.
        num_left_out: images of the set that do not count.
        reason: why they do not.
        multi_label: whether the images have several classes each, which are all to be found.
    """

    chosen: np.ndarray
    labels: np.ndarray
    outputs: np.ndarray | None
    class_names: list[str]
    num_left_out: int
    reason: str
    multi_label: bool = False

    @property
    def sha256(self) -> str:
        """Of the images that count and what is right for them."""
        digest = hashlib.sha256(repr((self.labels.shape, self.class_names)).encode())
        for array in (self.chosen, self.labels, self.outputs):
            digest.update(b"all" if array is None else np.ascontiguousarray(array).data)
        if self.multi_label:
            digest.update(b"multi-label")
        return digest.hexdigest()


def parse_set(name: str, value: Any) -> SetConfig:
    """A set as a user writes it: "photos/val", "real:imagenet/val", or settings by name.

    Args:
        name: of the set, for messages.
        value: a path, which may have a kind or cifar10 or cifar100 with a colon before it; a
            mapping of the fields of `SetConfig`; or a configuration.

    Raises:
        ConfigError: it is something else.

    Example:
        >>> from fkd.evaluation.sets import parse_set
        >>> parse_set("real", "real:imagenet/val").kind
        'real'
        >>> parse_set("small", "cifar10:data").split
        'test'
    """
    if isinstance(value, SetConfig):
        return value
    if isinstance(value, ImagesConfig):
        return SetConfig(**{field.name: getattr(value, field.name) for field in fields(value)})
    if isinstance(value, dict):
        return _from_mapping(name, value)
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ConfigError(
            f"sets.{name}: {value!r} is no set; give a path such as photos/val or "
            "real:imagenet/val, or settings such as {root: photos, split: val}"
        )
    prefix, colon, rest = os.fspath(value).partition(":")
    if not colon or prefix not in _PREFIXES:
        return SetConfig(root=os.fspath(value))
    if not rest:
        raise ConfigError(f"sets.{name}: {value} has no path; give one, e.g. {prefix}:data")
    settings: dict[str, Any] = (
        {"format": prefix, "split": "test"} if prefix in _CIFAR else {"kind": prefix}
    )
    return SetConfig(**{"root": rest, **settings})


def _from_mapping(name: str, settings: dict[Any, Any]) -> SetConfig:
    known = [field.name for field in fields(SetConfig)]
    for field in settings:
        if field not in known:
            close = get_close_matches(str(field), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"use {', '.join(known)}"
            raise ConfigError(f"sets.{name}: a set has no setting {field!r}; {hint}")
    if not settings.get("root"):
        raise ConfigError(f"sets.{name}: root is missing; give the folder with the images")
    for field in ("image_column", "label_column"):
        if not isinstance(settings.get(field), str | None):
            raise ConfigError(f"sets.{name}: {field} is a name, got {settings[field]!r}")
    whole = parse_set(name, settings["root"])  # may have a kind before it, too
    try:
        return replace(whole, **{key: settings[key] for key in settings if key != "root"})
    except ConfigError as error:
        raise ConfigError(f"sets.{name}: {error}") from error


def find_truth(
    source: ImageSource,
    kind: Kind,
    class_names: Sequence[str],
    owner: str,
    *,
    may_lack_classes: bool = False,
) -> Truth:
    """Which images count for a model, and what is right.

    Args:
        source: the images.
        kind: see the top of this file.
        class_names: of the model's outputs.
        owner: the model, for messages.
        may_lack_classes: whether images without classes are useful, too: all count then.

    Raises:
        ConfigError: no image has a class that the model knows, or the kind does not fit the model
            or the images.
    """
    if kind == "real":
        return _real_truth(source, class_names, owner)
    if kind != "classes":
        return _subset_truth(source, kind, class_names, owner)
    if source.class_names is None and may_lack_classes:
        everything = np.arange(len(source))
        labels = np.empty((len(source), 0), np.int64)
        return Truth(
            chosen=everything,
            labels=labels,
            outputs=None,
            class_names=list(class_names),
            num_left_out=0,
            reason="",
        )
    if is_multi_label(source):
        return Truth(
            chosen=np.arange(len(source)),
            labels=MultiLabelImages.match(source, class_names).truth,
            outputs=None,
            class_names=list(class_names),
            num_left_out=0,
            reason="",
            multi_label=True,
        )
    images = LabeledImages.match(source, class_names)
    return Truth(
        chosen=images.chosen,
        labels=images.labels[:, None],
        outputs=None,
        class_names=list(class_names),
        num_left_out=images.num_skipped,
        reason="the model lacks their class",
    )


def describe_subset(source: ImageSource, kind: Kind) -> str | None:
    """A remark on images that look like ImageNet-A or -R and are taken as any others."""
    for subset in get_args(Subset):
        if kind == "classes" and set(source.class_names or ()) == set(subset_ids(subset)):
            return (
                f"the classes of {source.root} are those of {subset}; published accuracies rank "
                f"only these 200: give {subset}:{source.root} for them"
            )
    return None


def _subset_truth(
    source: ImageSource, kind: Subset, class_names: Sequence[str], owner: str
) -> Truth:
    outputs = _imagenet_outputs(kind, class_names, owner)
    names = list(subset_ids(kind))
    images = LabeledImages.match(source, names)
    column_of = dict(zip(wordnet_ids(), outputs.tolist(), strict=True))
    return Truth(
        chosen=images.chosen,
        labels=images.labels[:, None],
        outputs=np.array([column_of[name] for name in names], np.int64),
        class_names=names,
        num_left_out=images.num_skipped,
        reason=f"their class is none of the 200 of {kind}",
    )


def _real_truth(source: ImageSource, class_names: Sequence[str], owner: str) -> Truth:
    outputs = _imagenet_outputs("real", class_names, owner)
    found = _numbered_images(source)
    labels = {i: real_labels()[number - 1] for number, i in found.items()}
    chosen = np.array(sorted(i for i, of_one in labels.items() if of_one), np.int64)
    if len(chosen) == 0:
        raise ConfigError(f"real: none of the {len(found)} images of {source.root} has ReaL labels")
    width = max(len(labels[i]) for i in chosen.tolist())
    truth = np.full((len(chosen), width), -1, np.int64)
    for row, i in enumerate(chosen.tolist()):
        truth[row, : len(labels[i])] = outputs[list(labels[i])]
    return Truth(
        chosen=chosen,
        labels=truth,
        outputs=None,
        class_names=list(class_names),
        num_left_out=len(source) - len(chosen),
        reason="they have no ReaL labels",
    )


def _numbered_images(source: ImageSource) -> dict[int, int]:
    """The position of each of ImageNet's validation images in a source, by its number.

    Raises:
        ConfigError: there are none, or one is there twice.
    """
    position: dict[int, int] = {}
    for i in range(len(source)):
        number = validation_number(printable(source.key(i)))
        if number is None:
            continue
        if number in position:
            raise ConfigError(
                f"real: {source.name(position[number])} and {source.name(i)} are the same image; "
                "remove one of them"
            )
        position[number] = i
    if not position:
        raise ConfigError(
            f"real: ReaL labels are found by the names of the files, and none of {source.root} "
            f"(such as {printable(source.key(0))}) is called like ILSVRC2012_val_00000293.JPEG; "
            "give ImageNet's validation images as files with these names, in any folders"
        )
    return position


def _imagenet_outputs(kind: Kind, class_names: Sequence[str], owner: str) -> np.ndarray:
    """The model's output for each class of ImageNet-1k, int64 (1000,).

    Raises:
        ConfigError: the model has other classes.
    """
    column_of = {name: column for column, name in enumerate(class_names)}
    if set(column_of) != set(wordnet_ids()):
        raise ConfigError(
            f"{kind}: the {len(class_names)} classes of {owner} (such as {class_names[0]}) are not "
            "the 1,000 of ImageNet-1k by their WordNet ids; use a model of these, or name its "
            "outputs so (--class_names)"
        )
    return np.array([column_of[name] for name in wordnet_ids()], np.int64)
