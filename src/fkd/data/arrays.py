"""Images that a data set object yields decoded, not as files (torchvision's CIFAR and others).

Every image is returned as the bytes of a PPM file, which holds exactly its RGB pixels; checksum and
decoding then work as for files. Keys are positions, as such data sets have no names.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from fkd.data.class_ids import require_class_ids
from fkd.data.class_sets import ClassSets, is_multi_hot, lists_of, refuse_zeros_and_ones
from fkd.data.decode import rgb_pixels
from fkd.errors import ConfigError, ImageError, reason_of

_LABEL_ATTRIBUTES = ("targets", "labels", "_labels")  # as torchvision's data sets call them


class ArraySource:
    """A map-style data set of (image, ...) items; an image is a PIL image or a uint8 array.

    Labels are taken from the data set's `targets` or `labels`, names from its `classes`; a data set
    without labels there has no classes. Several classes of an image are a list of ids, or a row of
    zeros and ones in an array (n, C).

    Attributes:
        root: what the data set calls its folder, or the name of its type.
        class_names: names in the order of the labels, or None.
        multi_label: whether images have several classes each.
    """

    labels_are_ids = True  # whatever the classes are called

    def __init__(self, dataset: Any, positions: Sequence[int] | None = None) -> None:
        """Wrap a data set without transforms.

        Args:
            dataset: the data set.
            positions: of the images to take, ascending; None for all.

        Raises:
            ConfigError: it has a transform, or its labels are no class ids.
        """
        refuse_transforms(dataset)
        self.root = str(getattr(dataset, "root", type(dataset).__name__))
        self._dataset = dataset
        self._positions = range(len(dataset)) if positions is None else positions
        self._sets: ClassSets | None = None
        self._labels: np.ndarray | None = None
        attribute, labels = _find_labels(dataset)
        sets = None if labels is None else lists_of(labels)
        self.multi_label = sets is not None
        if sets is not None:
            if not is_multi_hot(labels):
                refuse_zeros_and_ones(sets, _place(dataset, attribute))
            flat = _as_class_ids(dataset, attribute, [label for ids in sets for label in ids])
            ends = np.cumsum([len(ids) for ids in sets])[:-1]
            self._sets = ClassSets(ids[ids >= 0] for ids in np.split(flat, ends))
            width = np.shape(labels)[1] if is_multi_hot(labels) else 0
            self.class_names = _find_class_names(dataset, flat, width)
        else:
            if labels is not None:
                self._labels = _as_class_ids(dataset, attribute, labels)
            self.class_names = _find_class_names(dataset, self._labels)

    def __len__(self) -> int:
        return len(self._positions)

    def __repr__(self) -> str:
        return f"ArraySource({type(self._dataset).__name__}, {len(self)} images)"

    def key(self, i: int) -> bytes:
        """The position in the data set with at least eight digits."""
        digits = max(8, len(str(len(self._dataset) - 1)))
        return b"%0*d" % (digits, self._positions[i])

    def label(self, i: int) -> int:
        """The class of image `i`, -1 for none or where images have several."""
        return -1 if self._labels is None else int(self._labels[self._positions[i]])

    def labels(self, i: int) -> np.ndarray:
        """All classes of image `i`, int64 (n,)."""
        if self._sets is not None:
            return self._sets[self._positions[i]]
        label = self.label(i)
        return np.array([] if label < 0 else [label], np.int64)

    def name(self, i: int) -> str:
        """Data set and position."""
        return f"image {self._positions[i]} of {type(self._dataset).__name__}"

    def read(self, i: int) -> bytes:
        """Image `i` as a PPM file.

        Raises:
            ImageError: the data set does not give it, or it has no obvious meaning as RGB.
            ConfigError: the item does not begin with an image.
        """
        try:
            item = self._dataset[self._positions[i]]
        except Exception as error:  # of any kind: the data set is the user's code
            raise ImageError(f"{self.name(i)} cannot be read ({reason_of(error)})") from error
        image = item[0] if isinstance(item, tuple | list) else item
        if isinstance(image, np.ndarray) and image.dtype == np.uint8:
            image = Image.fromarray(image)
        if not isinstance(image, Image.Image):
            raise ConfigError(
                f"{self.name(i)} is a {type(image).__name__}, not a PIL image or uint8 array "
                "(H, W, 3); give the data set without transforms"
            )
        return encode_ppm(rgb_pixels(image, self.name(i)))


def encode_ppm(pixels: np.ndarray) -> bytes:
    """A PPM file with these pixels, uint8 (H, W, 3)."""
    height, width, _ = pixels.shape
    return b"P6\n%d %d\n255\n" % (width, height) + pixels.tobytes()


def refuse_transforms(dataset: Any) -> None:
    """Refuse a data set with transforms, which would be skipped silently.

    Raises:
        ConfigError: the data set has one.
    """
    for attribute in ("transform", "target_transform", "transforms"):
        if getattr(dataset, attribute, None) is not None:
            raise ConfigError(
                f"the data set {type(dataset).__name__} has a {attribute}, which would not be "
                f"applied; build it with {attribute}=None"
            )


def _find_labels(dataset: Any) -> tuple[str, Any]:
    """Where the labels of a data set are, and they; None if it has none where they usually are."""
    for attribute in _LABEL_ATTRIBUTES:
        labels = getattr(dataset, attribute, None)
        if labels is not None and len(labels) == len(dataset):
            return attribute, labels
    return "", None


def _place(dataset: Any, attribute: str) -> str:
    """Where the labels are, for messages."""
    return f"{attribute} of the data set {type(dataset).__name__}"


def _as_class_ids(dataset: Any, attribute: str, labels: Any) -> np.ndarray:
    where = _place(dataset, attribute)
    try:
        array = np.asarray(labels, np.int64) if len(labels) == 0 else np.asarray(labels)
    except ValueError as error:  # lists of different lengths
        raise ConfigError(
            f"{where} are not one class id for each image, nor a list of them for each; give "
            "integers, or lists of integers for all images"
        ) from error
    if array.ndim != 1 or array.dtype.kind not in "iub":
        raise ConfigError(
            f"{where} are {array.dtype} of shape {array.shape}, not one class id for each image; "
            "give integers"
        )
    if len(array):
        names: Sequence[Any] | None = getattr(dataset, "classes", None)
        low, high = int(array.min()), int(array.max())
        require_class_ids(low, high, num_images=len(array), names=names, where=where)
    return array.astype(np.int32)


def _find_class_names(dataset: Any, labels: np.ndarray | None, width: int = 0) -> list[str] | None:
    """The names in `classes`; without them the numbers of the labels, at least `width`."""
    if labels is None:
        return None
    names: Sequence[Any] | None = getattr(dataset, "classes", None)
    if names is None:
        return [str(i) for i in range(max(width, int(labels.max(initial=-1)) + 1))]
    return [str(name) for name in names]
