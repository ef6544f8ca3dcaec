"""Which crops of an image a student sees, and when.

*Positions* number the crops that an image has been seen with: a pass with m crops that starts at
epoch e uses the positions e .. e + m - 1. Crops are a pure function of (seed, image key, position),
so a run sees the same ones after a restart and with any number of processes.

    source  crop at a position                                    target
    stored  what the store holds: every crop once per cycle of M  the stored label
    fresh   a new one, drawn for that position                    none (a teacher's, or the class)

Stored crops without replacement: cycle c of an image is a random order of its M crops. Where an
access begins in one cycle and ends in the next, m = 3, M = 5:

    position  0 1 2 | 3 4 . 5 | 6 7 8 | 9 ...        the access | 3 4 5 | straddles
    cycle     -- 0 ------ -- 1 -------------

the next order first uses crops that its predecessor did not just use, so the m crops of an access
always differ, and every cycle still has every crop exactly once.

Source: FKD (Shen and Xing, ECCV 2022), Sec. 4.1: crops shuffled and without overlap. The authors'
code draws m of M afresh at every access: order "iid".
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np

from fkd.checks import require_whole
from fkd.crops.augment import NO_AUGMENT, AugmentConfig, sample_augment
from fkd.crops.records import CropRecords
from fkd.crops.sampling import CropConfig, draw_crops, place_crops
from fkd.data.identity import require_labeled_file
from fkd.data.sources import ImageSource, LoadedImage
from fkd.errors import ConfigError
from fkd.labels.codec_names import can_read
from fkd.labels.codecs import Codec
from fkd.labels.embeddings import Embeddings
from fkd.labels.targets import SoftTargets
from fkd.randomness import Purpose, permutations, stream_keys
from fkd.store import LabelStore

CropOrder = Literal["epoch_permutation", "iid"]


class CropRequest(NamedTuple):
    """One access: `crops_per_image` crops of image `image`, from position `start` on."""

    image: int
    start: int
    crops_per_image: int


@dataclass(frozen=True)
class SelectedCrops:
    """The crops of one access to B images, m of each.

    Attributes:
        targets: stored labels of the B * m crops, image after image, or embeddings where the store
            knows no classes; None for fresh crops.
        records: (j, loaded image) to the records (m,) of the j-th image; checks the image.
    """

    targets: SoftTargets | Embeddings | None
    records: Callable[[int, LoadedImage], CropRecords]


class CropSource(Protocol):
    """Where the crops of an access come from."""

    def select(self, images: np.ndarray, start: int, crops_per_image: int) -> SelectedCrops:
        """The crops of each of the images, int64 (B,), from position `start` on."""


class FreshCropSource:
    """New random crops at every position: what plain training and online distillation use."""

    def __init__(
        self, images: ImageSource, config: CropConfig, augment: AugmentConfig = NO_AUGMENT
    ) -> None:
        self._images = images
        self._config = config
        self._augment = augment

    def select(self, images: np.ndarray, start: int, crops_per_image: int) -> SelectedCrops:
        """Crop numbers are positions; a box is placed when the image's size is known."""
        numbers = np.arange(start, start + crops_per_image)
        streams = image_streams(self._images, images, self._config.seed)
        draws = draw_crops(streams[:, None], numbers)

        def records(j: int, loaded: LoadedImage) -> CropRecords:
            box, flip = place_crops(self._config, draws[j], loaded.size)
            return CropRecords(box, flip, sample_augment(self._augment, streams[j], numbers))

        return SelectedCrops(None, records)


class StoredCropSource:
    """The crops of a label store, with their labels.

    Args:
        images: of the store, or some of them.
        store: the labels.
        crops_per_image: m, crops of every multi-crop access.
        offset: position of the first multi-crop access (the warm-up's length).
        seed: picks the orders.
        order: without replacement, or independent at every access.
        codec: how labels are decoded; by default as the store says. See `with_temperature` and
            `with_teacher_weights` of `fkd.labels.codecs`. Embeddings are read as they are.
        rows: of the store, for each of the images, int64 (len(images),); by default they are found
            by their keys.

    Raises:
        ConfigError: an access needs no crop, or more than the store has; or it holds label maps, or
            embeddings that are to be decoded.
    """

    def __init__(
        self,
        images: ImageSource,
        store: LabelStore,
        *,
        crops_per_image: int,
        offset: int = 0,
        seed: int = 0,
        order: CropOrder = "epoch_permutation",
        codec: Codec | None = None,
        rows: np.ndarray | None = None,
    ) -> None:
        if store.grid is not None:
            raise ConfigError(
                f"store: {store.path} holds label maps and no crops; use method relabel, or label "
                "crops by `fkd label`"
            )
        require_whole(1, "crops_per_image", crops_per_image)
        if crops_per_image > store.num_crops:
            raise ConfigError(
                f"the store has {store.num_crops} crops per image, asked for {crops_per_image}; "
                "lower crops_per_image or label more crops"
            )
        self._images = images
        self._store = store
        self._rows = rows_of(images, store) if rows is None else rows
        self._crops_per_image = crops_per_image
        self._offset = offset
        self._seed = seed
        self._order = order
        self._codec = codec or store.codec
        if not store.is_of_classes and self._codec != store.codec:
            raise ConfigError(
                f"store: {store.path} holds embeddings, which are read as they are; leave out how "
                "labels are decoded (codec, label_temperature, teacher_weights)"
            )
        if not can_read(self._codec, store.codec):
            raise ConfigError(
                f"codec: {store.path} holds {store.codec.name} labels, which cannot be read as "
                f"{self._codec.name}; leave it out, or use a store that `fkd convert --codec "
                f"{self._codec.name}` makes where they hold what it needs"
            )

    def select(self, images: np.ndarray, start: int, crops_per_image: int) -> SelectedCrops:
        """All records and labels are read at once; each image is checked when it is loaded."""
        crops = self.crop_numbers(images, start, crops_per_image)
        stored = self._store.read(self._rows[images], crops)

        def records(j: int, loaded: LoadedImage) -> CropRecords:
            require_labeled_file(stored.images, j, loaded, self._images.name(int(images[j])))
            return stored.records[j]

        if not self._store.is_of_classes:
            return SelectedCrops(Embeddings.of(stored.label), records)
        targets = self._codec.targets(stored.label, self._store.num_classes)
        return SelectedCrops(targets, records)

    def crop_numbers(self, images: np.ndarray, start: int, crops_per_image: int) -> np.ndarray:
        """Which stored crops an access to images (B,) uses, int64 (B, m)."""
        return crop_numbers(
            image_streams(self._images, images, self._seed),
            self._store.num_crops,
            range(start, start + crops_per_image),
            crops_per_image=self._crops_per_image,
            offset=self._offset,
            order=self._order,
        )


def crop_numbers(
    streams: np.ndarray,
    num_crops: int,
    positions: range,
    *,
    crops_per_image: int,
    offset: int = 0,
    order: CropOrder = "epoch_permutation",
) -> np.ndarray:
    """Which of its `num_crops` stored crops an image shows at these positions, int64 (B, m).

    Args:
        streams: of the images, uint64 (B,); see `image_streams`.
        num_crops: M.
        positions: of one access, consecutive, m <= M.
        crops_per_image: m of every multi-crop access.
        offset: position of the first multi-crop access.
        order: without replacement, or independent at every access.
    """
    if order == "iid":
        orders = permutations(streams, Purpose.VIEW_ORDER, positions.start, num_crops)
        return orders[:, : len(positions)]
    return without_replacement(streams, num_crops, positions, crops_per_image, offset)


def rows_of(images: ImageSource, store: LabelStore) -> np.ndarray:
    """The row of a store of each image of a source, int64 (len(images),).

    Raises:
        MissingLabel: the store lacks an image.
    """
    return store.rows([images.key(i) for i in range(len(images))])


def image_streams(source: ImageSource, images: np.ndarray, seed: int) -> np.ndarray:
    """The random stream of each of these images of a source, uint64 (B,)."""
    return stream_keys(seed, [source.key(i) for i in images.tolist()])


def without_replacement(
    streams: np.ndarray, num_crops: int, positions: range, crops_per_image: int, offset: int
) -> np.ndarray:
    """Crop numbers, int64 (B, len(positions)): a cycle of `num_crops` has every crop once.

    Accesses of m = `crops_per_image` positions start at `offset`, `offset + m` ...; the crops of
    each of them are distinct. Needs m <= num_crops. `streams` are uint64 (B,).
    """
    cycles = sorted({position // num_crops for position in positions})
    orders = {c: _cycle_order(streams, c, num_crops, crops_per_image, offset) for c in cycles}
    columns = [orders[p // num_crops][:, p % num_crops] for p in positions]
    return np.stack(columns, axis=1)


def _cycle_order(
    streams: np.ndarray, cycle: int, num_crops: int, crops_per_image: int, offset: int
) -> np.ndarray:
    """The order (B, M) of one cycle: a permutation, in which the crops of an access that straddles
    its beginning come last. It depends on its predecessors back to the last cycle that no access
    straddles."""

    def tail(c: int) -> int:
        """Positions that the access across the start of cycle c has in cycle c - 1."""
        return max(c * num_crops - offset, 0) % crops_per_image

    origin = next(c for c in range(cycle, -1, -1) if tail(c) == 0)
    numbers = np.arange(origin, cycle + 1)
    draws = permutations(streams[:, None], Purpose.VIEW_ORDER, numbers, num_crops)
    order = draws[:, 0]
    for c in range(origin + 1, cycle + 1):
        just_used = order[:, num_crops - tail(c) :]
        order = _move_to_end(draws[:, c - origin], just_used)
    return order


def _move_to_end(order: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Each order (B, M) with some of its entries (B, r) moved to its end, else unchanged."""
    late = (order[:, :, None] == values[:, None, :]).any(axis=2)
    return np.take_along_axis(order, np.argsort(late, axis=1, kind="stable"), axis=1)
