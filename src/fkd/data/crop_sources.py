"""Which crops of an image a student sees, and when.

*Positions* number the crops that an image has been seen with: a pass with m crops that starts at
epoch e uses the positions e .. e + m - 1. Crops are a pure function of (seed, image key, position),
so a run sees the same ones after a restart and with any number of processes.

    views   crop at a position                                    target
    stored  what the store holds: every crop once per cycle of M  the stored label
    fresh   a new one, drawn for that position                    none (ask a teacher, or the class)

Stored views without replacement: cycle c of an image is a random order of its M crops. Where an
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

from fkd.crops.augment import NO_AUGMENT, AugmentConfig, sample_augment
from fkd.crops.partners import Partner, Partners, partner_rows
from fkd.crops.records import CropRecords
from fkd.crops.sampling import CropConfig, draw_crops, place_crops
from fkd.data.sources import ImageSource, LoadedImage
from fkd.errors import ConfigError, CropMismatch
from fkd.labels.codecs import Codec
from fkd.labels.targets import SoftTargets
from fkd.randomness import Purpose, permutations, stream_keys
from fkd.store import LabeledCrops, LabelStore

Load = Callable[[int], LoadedImage]
CropOrder = Literal["epoch_permutation", "iid"]


class CropRequest(NamedTuple):
    """One access: `crops` crops of image `image`, from position `start` on."""

    image: int
    start: int
    crops: int


@dataclass(frozen=True)
class SelectedCrops:
    """The crops of one access to several images.

    Attributes:
        targets: stored labels of all crops, image after image; None for fresh views.
        records: (j, loaded image) to the records (m,) of the j-th image; checks the image.
        partners: (j, how to load an image) to what its crops are mixed with; checks these images.
    """

    targets: SoftTargets | None
    records: Callable[[int, LoadedImage], CropRecords]
    partners: Callable[[int, Load], Partners] = lambda j, load_image: {}


class CropSource(Protocol):
    """Where the crops of an access come from."""

    def pick(self, images: np.ndarray, start: int, count: int) -> SelectedCrops:
        """`count` crops, from position `start` on, of each of the images (B,)."""


class FreshCropSource:
    """New random crops at every position: what plain training and online distillation use."""

    def __init__(
        self, images: ImageSource, config: CropConfig, augment: AugmentConfig = NO_AUGMENT
    ) -> None:
        self._images = images
        self._config = config
        self._augment = augment

    def pick(self, images: np.ndarray, start: int, count: int) -> SelectedCrops:
        """Crop numbers are positions; a box is placed when the image's size is known."""
        numbers = np.arange(start, start + count)
        streams = stream_keys(self._config.seed, [self._images.key(int(i)) for i in images])
        draws = draw_crops(streams[:, None], numbers)

        def records(j: int, loaded: LoadedImage) -> CropRecords:
            box, flip = place_crops(self._config, draws[j], loaded.image.shape[1:])
            return CropRecords(box, flip, sample_augment(self._augment, streams[j], numbers))

        return SelectedCrops(None, records)


class StoredCropSource:
    """The crops of a label store, with their labels.

    Args:
        images: where the images come from; their keys are looked up in the store.
        store: the labels.
        rows: store row of each image, int64 (len(images),).
        stride: m, crops of every multi-crop access.
        offset: position of the first multi-crop access (the warm-up's length).
        seed: picks the orders.
        order: without replacement, or independent at every access.
        codec: how labels are decoded; by default as the store says. See `with_temperature` and
            `with_teacher_weights` of `fkd.labels.codecs`.

    Raises:
        ConfigError: an access needs more crops than the store has, or it holds label maps.
    """

    def __init__(
        self,
        images: ImageSource,
        store: LabelStore,
        rows: np.ndarray,
        *,
        stride: int,
        offset: int = 0,
        seed: int = 0,
        order: CropOrder = "epoch_permutation",
        codec: Codec | None = None,
    ) -> None:
        if store.grid is not None:
            raise ConfigError(
                f"store: {store.path} holds label maps and no crops; use method relabel, or label "
                "crops by `fkd label`"
            )
        if stride > store.num_crops:
            raise ConfigError(
                f"the store has {store.num_crops} crops per image, asked for {stride}; lower "
                "crops_per_image or label more crops"
            )
        self._images = images
        self._store = store
        self._rows = rows
        self._image_of_row = np.empty(store.num_images, np.int64)
        self._image_of_row[rows] = np.arange(len(rows))
        self._stride = stride
        self._offset = offset
        self._seed = seed
        self._order = order
        self._codec = codec or store.codec

    def pick(self, images: np.ndarray, start: int, count: int) -> SelectedCrops:
        """All records and labels are read at once; an image is checked when it is at hand."""
        crops = self.crop_numbers(images, start, count)
        stored = self._store.read(self._rows[images], crops)

        def records(j: int, loaded: LoadedImage) -> CropRecords:
            check_image(stored, j, loaded, self._images.name(int(images[j])))
            return stored.records[j]

        targets = self._targets(stored, images, crops)
        return SelectedCrops(targets, records, self._pick_partners(stored, crops))

    def _pick_partners(
        self, stored: LabeledCrops, crops: np.ndarray
    ) -> Callable[[int, Load], Partners]:
        """All records of the partners of crops (B, m) are read at once, too."""
        pairs = [(j, row) for j in range(len(crops)) for row in partner_rows(stored.records[j])]
        if not pairs:
            return lambda j, load_image: {}
        owner, rows = np.array(pairs).T
        theirs = self._store.read(rows, crops[owner])

        def partners(j: int, load_image: Load) -> Partners:
            found = {}
            for n in np.flatnonzero(owner == j).tolist():
                image = int(self._image_of_row[rows[n]])
                loaded = load_image(image)
                check_image(theirs, n, loaded, self._images.name(image))
                found[int(rows[n])] = Partner(loaded.image, theirs.records[n])
            return found

        return partners

    def crop_numbers(self, images: np.ndarray, start: int, count: int) -> np.ndarray:
        """Which stored crops an access uses, int64 (B, count)."""
        streams = stream_keys(self._seed, [self._images.key(int(i)) for i in images])
        return self._draw_order(streams, self._store.num_crops, start, count)

    def _draw_order(
        self, streams: np.ndarray, num_crops: int, start: int, count: int
    ) -> np.ndarray:
        """Which of `num_crops` crops an access uses, int64 (B, count)."""
        if self._order == "iid":
            return permutations(streams, Purpose.VIEW_ORDER, start, num_crops)[:, :count]
        return without_replacement(
            streams, num_crops, range(start, start + count), self._stride, self._offset
        )

    def _targets(self, stored: LabeledCrops, images: np.ndarray, crops: np.ndarray) -> SoftTargets:
        return self._codec.targets(stored.label, self._store.num_classes)


def without_replacement(
    streams: np.ndarray, num_crops: int, positions: range, stride: int, offset: int
) -> np.ndarray:
    """Crop numbers (B, len(positions)): every cycle of `num_crops` positions has every crop once.

    Accesses of `stride` positions start at `offset`, `offset + stride` ...; the crops of each of
    them are distinct. Needs stride <= num_crops.
    """
    cycles = sorted({position // num_crops for position in positions})
    orders = {c: _cycle_order(streams, c, num_crops, stride, offset) for c in cycles}
    columns = [orders[p // num_crops][:, p % num_crops] for p in positions]
    return np.stack(columns, axis=1)


def _cycle_order(
    streams: np.ndarray, cycle: int, num_crops: int, stride: int, offset: int
) -> np.ndarray:
    """The order (B, M) of one cycle: a permutation, in which the crops of an access that straddles
    its beginning come last. It depends on its predecessors back to the last cycle that no access
    straddles."""

    def tail(c: int) -> int:
        """Positions that the access across the start of cycle c has in cycle c - 1."""
        return max(c * num_crops - offset, 0) % stride

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


def check_image(stored: LabeledCrops, j: int, loaded: LoadedImage, name: str) -> None:
    """Refuse an image file that is not the one that was labeled.

    Raises:
        CropMismatch: its bytes differ, or it decodes to another size.
    """
    if loaded.crc32 != stored.images.crc32[j] or loaded.num_bytes != stored.images.num_bytes[j]:
        raise CropMismatch(
            f"{name} is not the file that was labeled (its checksum differs); restore it, or "
            "label these images anew"
        )
    size, expected = tuple(loaded.image.shape[1:]), tuple(stored.images.size[j].tolist())
    if size != expected:
        raise CropMismatch(
            f"{name} decodes to {size[0]}x{size[1]} pixels here but to {expected[0]}x{expected[1]} "
            "when it was labeled; use the decoder versions that the store names"
        )
