"""What a folder of images is: one of classes, one without, or one that holds something else.

Taking the wrong level for the classes would give wrong labels in silence: splits would become
classes, and validation images would be trained on. So a tree is taken as classes only if it looks
like them, and every other one is refused with the folder to give instead.

    ROOT/cat/1.jpg          classes
    ROOT/1.jpg              no classes
    ROOT/train/...          splits, if all folders are called so: the one called `split`
    ROOT/Train/... , ROOT/meta/... , ROOT/images/cat/1.jpg          refused
    ROOT/images/1.jpg beside ROOT/masks/1.png , ROOT/fold1/1.jpg    refused
"""

import os
import re
import string
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from fkd.data.listing import Folder
from fkd.errors import ConfigError
from fkd.store.canonical import printable

SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")
"""Names of folders that are entered by the setting `split`."""

_KINDS = {
    "train": "train training trainval trn",
    "val": "val valid validation validate dev devel development minival",
    "test": "test testing tst eval evaluation",
    # Splits where they lie beside others, else ordinary names of classes.
    "other": "extra unlabeled unlabelled holdout query gallery distractor distractors probe",
}
_KIND_OF = {word: kind for kind, words in _KINDS.items() for word in words.split()}
_FILLERS = frozenset(
    {"set", "data", "dataset", "images", "image", "imgs", "img", "split", "part", "full"}
    | {"ilsvrc", "coco", "voc"}
)
# Where an upper-case word ends in TRAINSet and in VOCtrain; the first that finds a split is right.
_WORDS = (
    re.compile("[A-Z]?[a-z]+|[A-Z]+|[^\x00-\x7f]+"),
    re.compile("[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\x00-\x7f]+"),
)
# Folders of images that go with masks, labels or other images, not a class.
_IMAGES = re.compile(rb"(?:jpe?g|png|raw|rgb)?[-_ ]?(?:images?|imgs?)(?:[-_ ]?\d+)?", re.IGNORECASE)
_PART = re.compile(rb"(?:fold|part|split|shard|chunk|batch|subset)[-_ ]?\d+", re.IGNORECASE)
_SHOWN = 4


@dataclass(frozen=True)
class Layout:
    """The images of a data set and their classes.

    Attributes:
        folder: where they are, the root or one of its splits; paths begin at the root.
        classes: its folders, one for each class, in the order of their names; None for images
            without classes.
        remarks: what the user may want to know, a sentence each.
    """

    folder: Folder
    classes: list[Folder] | None
    remarks: list[str]


def split_kind(name: bytes) -> str | None:
    """What split a name may mean: "train", "val", "test", or "other" for less usual ones; None for
    the name of something else.

    Example:
        >>> [split_kind(name) for name in (b"Train", b"val2017", b"TestSet", b"dev", b"test_tube")]
        ['train', 'val', 'test', 'val', None]
    """
    kind, others = _split_words(name)
    return None if others else kind


def usual_split_in(path: str) -> str | None:
    """The kind of split that the parts of a path have one word for, whatever else they say.

    Example:
        >>> [usual_split_in(path) for path in ("plants/trainA", "TestSet-0", "holdout", "more")]
        ['train', 'test', None, None]
    """
    kinds = {_split_words(os.fsencode(part))[0] for part in path.split("/")}
    usual = kinds - {None, "other"}
    return usual.pop() if len(usual) == 1 else None


def _split_words(name: bytes) -> tuple[str | None, list[str]]:
    """The kind of split of which a name has one word, and its words that say something else."""
    text = name.decode("utf-8", "replace")
    readings = [_read_words(pattern.findall(text)) for pattern in _WORDS]
    return next((reading for reading in readings if reading[0] is not None), readings[0])


def _read_words(parts: Sequence[str]) -> tuple[str | None, list[str]]:
    words = [part.lower().removesuffix("set") or part.lower() for part in parts]
    kinds = [_KIND_OF[word] for word in words if word in _KIND_OF]
    known = _KIND_OF.keys() | _FILLERS | set(string.ascii_lowercase)  # of trainA, v2
    others = [word for word in words if word not in known]
    return (kinds[0] if len(kinds) == 1 else None), others


def describe_unused_split(root: str, split: str) -> list[str]:
    """A remark on a split that was asked for where there are none; nothing if that is no surprise.

    Args:
        root: what holds no splits.
        split: the setting, "train" by default.
    """
    own_kind = split_kind(os.fsencode(os.path.basename(os.path.abspath(root))))
    if split == "train" or own_kind == (split_kind(os.fsencode(split)) or split):
        return []
    return [f"images.split {split} chooses nothing: {root} is not divided into splits"]


def find_classes(root: str, tree: Folder, split: str) -> Layout:
    """The images of a tree and their classes, as far as the tree leaves no doubt.

    Args:
        root: the folder that paths in the tree begin at.
        tree: everything below it, or below one of its folders.
        split: which of its splits is wanted, if it holds some.

    Raises:
        ConfigError: splits lie beside something else or are spelled otherwise; folders are called
            as no class is; most images lie deeper than classes do; or as `as_classes`. Names the
            folder to give instead.
    """
    if _holds_splits(tree):
        return find_classes(root, _enter_split(root, tree, split), split)
    if tree.num_images == len(tree.images):
        return Layout(tree, None, [])
    if not tree.images:
        _refuse_depth(root, tree, split)
        _refuse_names(root, tree)
    layout = as_classes(root, tree)
    if layout.classes is not None and len(layout.classes) == 1:
        (only,) = layout.classes
        layout.remarks.append(
            f"{place(root, tree)} has one class, {printable(only.name)}; if that is no class, give "
            f"{place(root, only)}"
        )
    return layout


def as_classes(root: str, tree: Folder) -> Layout:
    """The folders directly below the root as classes, whatever they are called.

    Raises:
        ConfigError: there are images beside them, or one holds none: labels would shift silently.
    """
    # Parquet files are no images: a folder of nothing else was never a class.
    folders = [f for f in tree.folders if f.num_images or next(f.table_paths(), None) is None]
    if tree.images and folders:
        raise ConfigError(
            f"images.root: {place(root, tree)} holds {len(tree.images)} images "
            f"({printable(min(tree.images))} ...) beside {len(folders)} class folders "
            f"({printable(folders[0].name)} ...); move them into a class folder, or use "
            "images.format flat for images without classes"
        )
    empty = [folder for folder in folders if not folder.num_images]
    if empty:
        raise ConfigError(
            f"images.root: class folder {printable(empty[0].name)} of {place(root, tree)} "
            f"holds no image ({len(empty)} such folders); remove it or fill it"
        )
    if not folders:
        raise ConfigError(
            f"images.root: {place(root, tree)} has no class folders; use images.format flat"
        )
    return Layout(tree, folders, [])


def without_classes(root: str, tree: Folder, split: str) -> Layout:
    """All images of the tree, or of one of its splits, without classes.

    Raises:
        ConfigError: there are splits, but not this one.
    """
    if _holds_splits(tree) and _are_plain(tree):
        return Layout(_enter_split(root, tree, split), None, [])
    remarks = []
    if _holds_splits(tree):
        names = _names(tree.folders)
        remarks.append(f"the images of {names} of {place(root, tree)} are taken together")
    return Layout(tree, None, remarks)


def _holds_splits(tree: Folder) -> bool:
    """Whether the folders below a root are splits, or some of them are."""
    if _share_other_words(tree):
        return True
    kinds = {folder.path: split_kind(folder.name) for folder in tree.folders}
    usual = {kind for kind in kinds.values() if kind not in (None, "other")}
    if not usual:
        return False
    if len(usual) > 1 or None not in kinds.values():
        return True
    # One such name among others: a class (a train), or a split with classes in it?
    return any(
        kinds[folder.path] not in (None, "other") and folder.num_images and not folder.images
        for folder in tree.folders
    )


def _share_other_words(tree: Folder) -> bool:
    """Whether folders are called alike but for the kind of split: seg_train and seg_test."""
    kinds_of: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for folder in tree.folders:
        kind, others = _split_words(folder.name)
        if others and kind not in (None, "other"):
            kinds_of[tuple(others)].add(str(kind))
    return any(len(kinds) > 1 for kinds in kinds_of.values())


def _are_plain(tree: Folder) -> bool:
    """Whether all folders are called as splits usually are, and nothing lies beside them."""
    names = {folder.name.decode("utf-8", "replace") for folder in tree.folders}
    return not tree.images and names <= set(SPLITS)


def _enter_split(root: str, tree: Folder, split: str) -> Folder:
    """The wanted one of the splits."""
    where = place(root, tree)
    if not _are_plain(tree):
        raise ConfigError(
            f"images.root: {where} holds {_names(tree.folders)}, of which some look like splits of "
            f"one data set, not classes; give {place(root, _best_split(tree, split))}, or "
            f"{_insist(root, tree)} if they are classes"
        )
    splits = {os.fsdecode(folder.name): folder for folder in tree.folders}
    if split not in splits:
        raise ConfigError(
            f"images.split: {where} has no {split!r}, only {', '.join(splits)}; choose one"
        )
    if not splits[split].num_images:
        raise ConfigError(f"images.split: no image files below {place(root, splits[split])}")
    return splits[split]


def _best_split(tree: Folder, split: str) -> Folder:
    """The split that is meant most likely: of the wanted kind, with images."""
    wanted = split_kind(split.encode()) or "train"

    def rank(folder: Folder) -> tuple[bool, bool, bool]:
        kind, _ = _split_words(folder.name)
        return folder.num_images == 0, kind != wanted, kind is None

    return min(tree.folders, key=rank)


def _refuse_names(root: str, tree: Folder) -> None:
    """Refuse folders that are called as no class is: images beside masks, parts with numbers."""
    if len(tree.folders) == 1:
        return
    images = [folder for folder in tree.folders if _IMAGES.fullmatch(folder.name)]
    are_parts = all(_PART.fullmatch(folder.name) for folder in tree.folders)
    if images or are_parts:
        given = (images or tree.folders)[0]
        raise ConfigError(
            f"images.root: {place(root, tree)} holds {_names(tree.folders)}, which do not look "
            f"like classes; give {place(root, given)}, or {_insist(root, tree)} if they are classes"
        )


def _insist(root: str, tree: Folder) -> str:
    """How to have the folders directly below a folder as classes, whatever they are called.

    In a split it takes the folder itself: below the root the splits would be the classes.
    """
    if tree.path:
        return f"{place(root, tree)} with images.format classes"
    return "set images.format classes"


def _refuse_depth(root: str, tree: Folder, split: str) -> None:
    """Refuse a tree of which most images do not lie directly in the folders below the root."""
    direct = sum(len(folder.images) for folder in tree.folders)
    deeper = tree.num_images - direct
    if deeper <= direct:
        return
    upper = {folder.path for folder in (tree, *tree.folders)}
    below = (folder for folder in tree.walk() if folder.images and folder.path not in upper)
    example = next(folder.join(folder.images[0]) for folder in below)
    raise ConfigError(
        f"images.root: {deeper} of {tree.num_images} images below {place(root, tree)} lie deeper "
        f"than in {_names(tree.folders)} (such as {printable(example)}), so that these look like "
        f"no classes; give {place(root, _best_level(tree, split))}, or {_insist(root, tree)} "
        "if they are classes"
    )


def _best_level(tree: Folder, split: str) -> Folder:
    """The folder below a root that looks most like a folder of classes, or of images."""
    while True:
        below = [folder for folder in tree.folders if folder.num_images]
        if tree.images or not below:
            return tree
        if _holds_splits(tree):
            tree = _best_split(tree, split)
            continue
        direct = sum(len(folder.images) for folder in below)
        if 2 * direct >= tree.num_images:
            return tree
        tree = max(below, key=lambda folder: folder.num_images)


def place(root: str, folder: Folder) -> str:
    """Where a folder below a root is, printable."""
    return os.path.join(root, printable(folder.path)) if folder.path else root


def _names(folders: Sequence[Folder]) -> str:
    shown = [printable(folder.name) for folder in folders[:_SHOWN]]
    if len(folders) > _SHOWN:
        return ", ".join([*shown, "..."])
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))
