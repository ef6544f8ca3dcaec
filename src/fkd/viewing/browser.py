"""A store beside its images, opened once: picks the images of a page, whatever page it is.

Opening reads no label and decodes no image. Filters and orders by labels read all labels, once.
"""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fkd.checks import require_one_of
from fkd.data.class_sets import is_multi_label
from fkd.data.joining import join_store, true_classes
from fkd.data.sources import ImageSource
from fkd.errors import ConfigError
from fkd.models.classes import display_names
from fkd.store import LabelStore
from fkd.viewing.filters import FilterConfig, Sort, TrueClasses, reads_labels, select_rows
from fkd.viewing.statistics import LabelStatistics, read_statistics
from fkd.viewing.summary import StoreSummary, summarize


@dataclass(frozen=True)
class Selection:
    """The images of one page.

    Attributes:
        rows: of the store, in order, int64 (n,).
        first: how many of the chosen images come before them.
        total: how many images are chosen in all.
        number: of the page, from 1.
        num_pages: at least 1.
    """

    rows: np.ndarray
    first: int
    total: int
    number: int
    num_pages: int


class Browser:
    """Picks images of a store.

    Args:
        store: finished.
        images: those that were labeled.
        allow_missing: whether images of the store may be missing; see `join_store`.

    Raises:
        StoreMismatch: the images are not those of the store.

    Attributes:
        store: the store.
        images: the images.
        labeled: rows with labels whose image is there, int64 (n,), ascending.
        remarks: on images that are missing, a sentence each.
        num_read: images whose labels were read for filters, so far.
    """

    def __init__(
        self, store: LabelStore, images: ImageSource, *, allow_missing: bool = False
    ) -> None:
        self.store, self.images = store, images
        self._join = join_store(images, store, allow_missing=allow_missing)
        self.labeled = self._join.rows[self._join.labeled]
        self.remarks = self._join.remarks
        self.num_read = 0
        self._statistics: LabelStatistics | None = None
        self._reading = threading.Lock()

    def select(
        self,
        config: FilterConfig,
        sort: Sort = "random",
        *,
        seed: int = 0,
        number: int = 1,
        size: int = 12,
        advance: Callable[[int], object] = lambda count: None,
    ) -> Selection:
        """The images of a page.

        Args:
            config: conditions.
            sort: order.
            seed: of the random order.
            number: of the page, from 1.
            size: images on a page.
            advance: called while labels are read, with the number of images done since.

        Raises:
            ConfigError: a condition is impossible, or there is no such page.
        """
        require_one_of(Sort, "sort", sort)
        statistics = None
        if reads_labels(config, sort):
            statistics = self.statistics(advance)
        rows = select_rows(
            self.labeled,
            config,
            sort,
            seed,
            self.true_classes,
            self.store.class_names,
            statistics,
        )
        num_pages = max(1, -(-len(rows) // size))
        if number > num_pages:
            raise ConfigError(
                f"page.number: there are {num_pages:,} pages of {size} images, no page {number:,}"
            )
        first = (number - 1) * size
        return Selection(rows[first : first + size], first, len(rows), number, num_pages)

    def needs_reading(self, config: FilterConfig, sort: Sort) -> bool:
        """Whether `select` would first read the labels of all images."""
        return self._statistics is None and reads_labels(config, sort)

    def statistics(self, advance: Callable[[int], object]) -> LabelStatistics:
        """Those of all images with labels, read once.

        Raises:
            ConfigError: the store has no classes.
        """
        if not self.store.is_of_classes:
            raise ConfigError(
                "filter and sort: the store holds embeddings, which have neither entropies nor "
                "probabilities; use filter.class_name, and sort random or name"
            )

        def count(images: int) -> None:
            self.num_read += images
            advance(images)

        with self._reading:
            if self._statistics is None:
                self.num_read = 0
                self._statistics = read_statistics(self.store, self.labeled, count)
        return self._statistics

    @cached_property
    def summary(self) -> StoreSummary:
        """Of the store."""
        return summarize(self.store, num_samples=0)

    @cached_property
    def true_classes(self) -> TrueClasses:
        """Of the images with labels: those of the source, or else the folders that keys name.

        None where images have several classes each.
        """
        if is_multi_label(self.images):
            none = np.full(len(self.labeled), -1, np.int64)
            return TrueClasses((), none, np.empty(0, np.int64), are_several=True)
        known = {name: i for i, name in enumerate(self.store.class_names)}
        names, ids = self.images.class_names, self._join.class_ids
        if names is not None and ids is not None:
            labels = true_classes(self.images, None)[self._join.labeled]
            return TrueClasses(names, labels, ids)
        labels = np.array(
            [_class_in_key(key, known) for key in self.store.keys(self.labeled)], np.int64
        )
        used = self.store.class_names if (labels >= 0).any() else ()
        return TrueClasses(used, labels, np.arange(len(used)))

    def describe(self, rows: np.ndarray) -> list[dict[str, object]]:
        """What is said of each of these images beside its crops, by what the template calls it."""
        places = np.searchsorted(self.labeled, rows)
        true, shown = self.true_classes, display_names(self.true_classes.names)
        of_store = display_names(self.store.class_names)
        known = true.in_store[places]
        statistics = read_statistics(self.store, rows) if self.store.is_of_classes else None
        described = []
        for i, label in enumerate(true.labels[places].tolist()):
            about: dict[str, object] = {"true_class": shown[label] if label >= 0 else None}
            if statistics is not None:
                about["teacher_class"] = of_store[statistics.top_class[i]]
                about["entropy"] = float(statistics.entropy[i])
                about["disagrees"] = bool(known[i] >= 0 and known[i] != statistics.top_class[i])
            described.append(about)
        return described


def _class_in_key(key: bytes, known: dict[str, int]) -> int:
    """The class that a folder of the path is named after, the innermost first; -1 for none."""
    folders = os.fsdecode(key).split("/")[:-1]
    return next((known[name] for name in reversed(folders) if name in known), -1)
