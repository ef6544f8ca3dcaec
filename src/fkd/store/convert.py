"""A label store in another form, with fewer crops or a smaller codec, without the teacher.

The new store keeps the rows and keys, the facts about the image files, what the config says about
the teacher, and the canaries; it notes the root hash of the store that it was made from. Its bytes
are a function of that store and the settings, so a conversion that was killed resumes where it
stopped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fkd.checks import require_one_of, require_whole
from fkd.crops.sampling import content_streams
from fkd.errors import ConfigError, FormatError, MissingLabel, StoreError
from fkd.labels.codec_names import PerTeacher, check_codec, parse_codec
from fkd.labels.codecs import (
    Codec,
    Full,
    Hard,
    MarginalRenorm,
    MarginalSmoothing,
    TopKLogProbs,
    decode,
)
from fkd.labels.comparison import (
    EmbeddingComparison,
    LabelComparison,
    compare,
    compare_embeddings,
)
from fkd.labels.encoded import Encoded
from fkd.labels.quantization import LARGEST_VALUE
from fkd.labels.sampled import Sampled, draw_labels, encode_labels
from fkd.labels.sigmoid_codecs import Sigmoid, TopKSigmoid, keep_fewer
from fkd.labels.targets import SoftTargets
from fkd.lazy import torch
from fkd.store.config import (
    MAX_PACKED_CROPS,
    Form,
    StoreConfig,
    form_members,
    has_value_dtype,
)
from fkd.store.content import LABELED, ImageFacts, LabeledCrops
from fkd.store.geometry import draw_geometry, parse_crops
from fkd.store.pruning import CropChoice, Keep
from fkd.store.reader import LabelStore
from fkd.store.writer import StoreWriter

if TYPE_CHECKING:
    from torch import Tensor

_CROPS_AT_ONCE = 1 << 14
_PROBABILITIES_AT_ONCE = 1 << 22  # where labels are compared over all classes
_FORM_MEMBERS = ("form", "geometry", "levels", "value_dtype", "converted_from")


class Progress:
    """Callbacks of a conversion; these do nothing."""

    def begins(self, step: str, num_images: int) -> None:
        """A step of the work on so many images begins."""

    def advanced(self, num_images: int) -> None:
        """So many more images are done."""


@dataclass(frozen=True)
class Conversion:
    """A finished conversion.

    Attributes:
        before: the store that was read.
        after: the store that was written.
        comparison: of the labels of the new store, as they were read back, with the old ones; of
            features by their cosine.
    """

    before: LabelStore
    after: LabelStore
    comparison: LabelComparison | EmbeddingComparison


def convert_store(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    form: Form = "compact",
    num_crops: int | None = None,
    keep: Keep = "first",
    codec: str | None = None,
    value_dtype: str | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """Write a finished store once more, or resume that.

    Args:
        source: a finished store, all shards of which are there: rows and root hash of the new one
            are of all images.
        out: folder of the new store.
        form: of the new store.
        num_crops: keep so many crops of each image; by default all.
        keep: which ones, see `fkd.store.pruning`.
        codec: keep less of each label: fewer classes, or a simpler codec.
        value_dtype: how values are stored; by default as they are, where the new store has such.
        progress: called as the work proceeds.

    Raises:
        ConfigError: the source does not hold what is asked for.
        MissingLabel: shards of the source are not there.
        StoreError: the source cannot be read, or the new store cannot be written.
    """
    require_whole(None, "num_crops", num_crops)
    require_one_of(Keep, "keep", keep)
    if keep != "first" and num_crops is None:
        raise ConfigError(f"keep: {keep} chooses crops to be kept; say how many (--num_crops)")
    before, listener = LabelStore.open(source, partial=True), progress or Progress()
    if before.is_partial:
        raise MissingLabel(
            f"{before.path} has {len(before.committed)} of {before.num_shards} shards; a store is "
            "converted as a whole, so get the others first"
        )
    if before.grid is not None:
        raise ConfigError(
            f"store: {before.path} holds label maps, which have one form; make smaller ones by "
            "`fkd label-maps --top_k`"
        )
    target = before.codec if codec is None else _with_weights_of(before.codec, parse_codec(codec))
    require_derivable(before.codec, target, before.num_classes)
    choice = _choose(before, form, num_crops, keep)
    config = _new_config(choice, form, target, value_dtype, listener)
    with StoreWriter.open(out, config) as writer:
        pending = writer.pending()
        ranges = [writer.shard_range(number) for number in pending]
        listener.begins("converting", sum(stop - first for first, stop in ranges))
        for number, (first, stop) in zip(pending, ranges, strict=True):
            rows = np.arange(first, stop)
            _commit(writer, number, choice, rows)
            listener.advanced(stop - first)
        listener.begins("comparing", before.num_images)
        written = LabelStore.open(out, partial=True)
        comparison = _compare_labels(choice, written, listener)
        writer.finish(before.environment, _canaries(choice))
    return Conversion(before, LabelStore.open(out), comparison)


def _commit(writer: StoreWriter, number: int, choice: CropChoice, rows: np.ndarray) -> None:
    """Write these rows of a store as a shard."""
    store = choice.store
    try:
        writer.commit(number, store.keys(rows), _content(choice, writer.config, rows))
    except ConfigError:  # of the settings, not of the store
        raise
    except ValueError as error:  # in a store of this package nothing of the kind is found
        raise FormatError(f"{store.path}: {error}; get the store again") from error
    except MemoryError as error:
        raise StoreError(
            f"a shard of {len(rows):,} images with {writer.config.num_crops:,} crops each does not "
            "fit into memory; keep fewer (--num_crops), or use a machine with more memory"
        ) from error


def require_derivable(old: Codec, new: Codec, num_classes: int) -> None:
    """Refuse a codec whose labels do not follow from those of another.

    Raises:
        ConfigError: they do not.
    """
    check_codec(new, num_classes)
    if isinstance(old, PerTeacher) and isinstance(new, PerTeacher) and old.count == new.count:
        require_derivable(old.codec, new.codec, num_classes)
        return
    if new == old or (isinstance(old, Full) and _has_one_label(new)):
        return
    if isinstance(old, Sigmoid) and isinstance(new, TopKSigmoid):
        return
    fewer = new.num_ids(num_classes) <= old.num_ids(num_classes)
    simpler = isinstance(old, MarginalSmoothing) and isinstance(
        new, Hard | MarginalSmoothing | MarginalRenorm
    )
    simpler |= isinstance(old, TopKLogProbs) and isinstance(
        new, Hard | MarginalSmoothing | MarginalRenorm | TopKLogProbs
    )
    simpler |= isinstance(old, TopKSigmoid) and isinstance(new, TopKSigmoid)
    # What mr labels leave out may have been scaled away.
    simpler |= isinstance(old, MarginalRenorm) and isinstance(new, Hard | MarginalRenorm)
    drawn = isinstance(old, Sampled) or isinstance(new, Sampled)  # they are no top-K
    if drawn or not (fewer and simpler):
        remedy = "label again"
        if isinstance(old, PerTeacher) and not isinstance(new, PerTeacher):
            remedy = f"for a label of each teacher write {new.name}*{old.count}"
        raise ConfigError(
            f"codec: labels of codec {old.name} do not hold what {new.name} needs; {remedy}"
        )


def _with_weights_of(old: Codec, new: Codec) -> Codec:
    """The weights of teachers are kept."""
    if isinstance(old, PerTeacher) and isinstance(new, PerTeacher) and old.count == new.count:
        return replace(new, weights=old.weights)
    return new


def _has_one_label(codec: Codec) -> bool:
    """Whether a codec can be made from one label of probabilities."""
    return codec.encodes == "probabilities" and not isinstance(codec, PerTeacher)


def _choose(store: LabelStore, form: Form, num_crops: int | None, keep: Keep) -> CropChoice:
    """The crops that the new store has."""
    kept = store.num_crops if num_crops is None else num_crops
    most = min(store.num_crops, MAX_PACKED_CROPS if form == "compact" else store.num_crops)
    if not 0 < kept <= most:
        raise ConfigError(
            f"num_crops: a {form} store made from {store.path} has 1 to {most:,} crops per image, "
            f"not {kept:,}; label again for more"
        )
    return CropChoice(store, kept, keep)


def _new_config(
    choice: CropChoice, form: Form, codec: Codec, value_dtype: str | None, progress: Progress
) -> dict[str, Any]:
    """The identity of the new store."""
    store = choice.store
    config: dict[str, Any] = json.loads(json.dumps(store.config))
    for name in _FORM_MEMBERS:
        config.pop(name, None)
    same_kind = codec.stores == store.codec.stores
    if value_dtype is None and same_kind and has_value_dtype(form, codec, store.num_classes):
        value_dtype = store.config.get("value_dtype")
    num_crops = choice.num_crops
    config |= {"num_crops": num_crops, "codec": codec.name, "converted_from": store.root_hash}
    if choice.depends_on_labels:
        config["kept_crops"] = {"keep": choice.keep, "of": store.num_crops}
    config |= form_members(form, codec, store.num_classes, value_dtype)
    if form == "compact" and not _can_recompute(choice, progress):
        config["geometry"] = "stored"
    return config


def _can_recompute(choice: CropChoice, progress: Progress) -> bool:
    """Whether all boxes and flips are those that our generator draws."""
    store, num_crops = choice.store, choice.num_crops
    if choice.depends_on_labels:
        return False
    try:
        crops = parse_crops(store.config.get("crops"), "the config")
    except FormatError:
        return False
    progress.begins("comparing boxes", store.num_images)
    for rows in _chunks(store, _CROPS_AT_ONCE):
        labeled = rows[store.labeled(rows)]
        numbers = _first_crops(len(labeled), num_crops)
        read = store.read(labeled, numbers)
        images = read.images
        box, flip = draw_geometry(crops, images.crc32, images.num_bytes, images.size, numbers)
        same = np.array_equal(box, read.records.box) and np.array_equal(flip, read.records.flip)
        if not same:
            return False
        progress.advanced(len(rows))
    return True


def _content(choice: CropChoice, config: StoreConfig, rows: np.ndarray) -> LabeledCrops:
    """These images as the new store holds them."""
    store = choice.store
    images = store.images(rows)
    labeled = np.flatnonzero(images.status == LABELED)
    numbers = choice.numbers(rows[labeled])
    read = store.read(rows[labeled], numbers)

    def spread(array: np.ndarray) -> np.ndarray:
        whole = np.zeros((len(rows), *array.shape[1:]), array.dtype)
        whole[labeled] = array
        return whole

    draws = None
    if isinstance(config.codec, Sampled):
        draws = _draw_labels(store, read.images, numbers).reshape(-1)
    label = _derive(store.codec, config.codec, read.label, store.num_classes, draws)
    _require_storable(label.values, config.value_dtype)
    return LabeledCrops(images, read.records.map(spread), label.map(spread))


def _draw_labels(store: LabelStore, images: ImageFacts, numbers: np.ndarray) -> np.ndarray:
    """Random numbers for labels of the crops (n, m) of these images, as `fkd label` draws them."""
    try:
        seed = parse_crops(store.config.get("crops"), "the config").seed
    except FormatError:  # of an imported store
        seed = 0
    streams = content_streams(seed, images.crc32, images.num_bytes)
    return draw_labels(streams[:, None], numbers)


def _require_storable(values: np.ndarray | None, value_dtype: str | None) -> None:
    """Refuse values that would become infinite."""
    if values is None or values.size == 0 or value_dtype != "f16":
        return
    largest = np.abs(values).max()
    if largest > LARGEST_VALUE[value_dtype]:
        raise ConfigError(
            f"value_dtype: a label has the value {largest:g}, which f16 does not hold; use f32 or, "
            "of codec logits, i8"
        )


def _chunks(store: LabelStore, num_crops: int) -> Iterator[np.ndarray]:
    """All rows of a store in order, int64, with about so many crops at a time."""
    step = max(1, num_crops // store.num_crops)
    for first in range(0, store.num_images, step):
        yield np.arange(first, min(first + step, store.num_images))


def _first_crops(num_images: int, num_crops: int) -> np.ndarray:
    return np.broadcast_to(np.arange(num_crops), (num_images, num_crops))


def _derive(
    old: Codec, new: Codec, label: Encoded, num_classes: int, draws: np.ndarray | None = None
) -> Encoded:
    """Labels (n, M) by a codec from those of another, with random numbers (n M,) for drawn ones."""
    if new == old:
        return label
    if isinstance(old, PerTeacher) and isinstance(new, PerTeacher):
        parts = [_derive(old.codec, new.codec, part, num_classes) for part in old.split(label)]
        return Encoded.concatenate(parts, axis=-1)
    if isinstance(old, TopKSigmoid):
        return keep_fewer(label, new.num_ids(num_classes), num_classes)
    if label.ids is None or isinstance(old, TopKLogProbs):
        encoded = encode_labels(new, decode(old, label, num_classes), draws)
        assert label.values is not None
        leading = label.values.shape[:-1]
        return encoded.map(lambda array: array.reshape(*leading, array.shape[-1]))
    k = new.num_ids(num_classes)
    values = label.values if new.num_values(num_classes) else None
    return Encoded(label.ids[..., :k], None if values is None else values[..., :k])


def _compare_labels(
    choice: CropChoice, after: LabelStore, progress: Progress
) -> LabelComparison | EmbeddingComparison:
    """All labels of `after` against those of the same crops in the store before."""
    before = choice.store
    if not before.is_of_classes:
        return _compare_features(before, after, progress)

    def targets(store: LabelStore, rows: np.ndarray, numbers: np.ndarray | None) -> SoftTargets:
        return store.codec.targets(store.read(rows, numbers).label, store.num_classes)

    comparison = LabelComparison.empty()
    kept = [store.codec.num_ids(store.num_classes) for store in (before, after)]
    sparse = kept[0] == kept[1] > 0
    crops = _CROPS_AT_ONCE if sparse else _PROBABILITIES_AT_ONCE // before.num_classes
    for rows in _chunks(before, crops):
        labeled = rows[before.labeled(rows)]
        numbers = choice.numbers(labeled)
        comparison += compare(targets(before, labeled, numbers), targets(after, labeled, None))
        progress.advanced(len(rows))
    return comparison


def _compare_features(
    before: LabelStore, after: LabelStore, progress: Progress
) -> EmbeddingComparison:
    """All embeddings of `after` against those of the same crops in `before`."""

    def embeddings(store: LabelStore, rows: np.ndarray) -> Tensor:
        values = store.read(rows, _first_crops(len(rows), after.num_crops)).label.values
        return torch.as_tensor(values).flatten(0, 1)

    comparison = EmbeddingComparison.empty()
    for rows in _chunks(before, _PROBABILITIES_AT_ONCE // before.num_classes):
        labeled = rows[before.labeled(rows)]
        if len(labeled):
            comparison += compare_embeddings(
                embeddings(before, labeled), embeddings(after, labeled)
            )
        progress.advanced(len(rows))
    return comparison


def _canaries(choice: CropChoice) -> list[dict[str, Any]]:
    """The canaries whose crops are still there, by their numbers in the new store."""
    found = []
    for canary in choice.store.canaries:
        places = np.flatnonzero(choice.numbers(np.array([canary.row]))[0] == canary.crop)
        found += [replace(canary, crop=place).in_manifest() for place in places.tolist()]
    return found
