"""Which images of a store a page shows, and in which order."""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from fkd.checks import changed_fields, require_at_least, require_in
from fkd.errors import ConfigError
from fkd.models.classes import display_names
from fkd.randomness import Purpose, stream_key, uniforms
from fkd.viewing.statistics import LabelStatistics

Sort = Literal[
    "random", "name", "low_entropy", "high_entropy", "low_probability", "high_probability"
]
_OF_LABELS = (
    "teacher_class",
    "min_entropy",
    "max_entropy",
    "min_top_probability",
    "max_top_probability",
    "disagrees",
)


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Which images are shown: those that meet every condition that is set.

    Attributes:
        class_name: of these true classes; a WordNet id may be given by its first word.
        teacher_class: those of which the teacher's mean label says one of these classes.
        min_entropy: with at least this mean entropy of their labels, nats.
        max_entropy: with at most this one.
        min_top_probability: whose crops' most probable classes have at least this mean probability.
        max_top_probability: at most this one.
        disagrees: of which the teacher's mean label says another class than the true one.
    """

    class_name: list[str] = field(default_factory=list)
    teacher_class: list[str] = field(default_factory=list)
    min_entropy: float | None = None
    max_entropy: float | None = None
    min_top_probability: float | None = None
    max_top_probability: float | None = None
    disagrees: bool = False

    def __post_init__(self) -> None:
        for name in ("min_entropy", "max_entropy"):
            require_at_least(0, f"filter.{name}", getattr(self, name))
        for name in ("min_top_probability", "max_top_probability"):
            require_in("[0, 1]", f"filter.{name}", getattr(self, name))
        for name in ("entropy", "top_probability"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if low is not None and high is not None and low > high:
                raise ConfigError(
                    f"filter.min_{name} is {low:g} and filter.max_{name} is {high:g}: no image is "
                    "between these; exchange them"
                )


def reads_labels(config: FilterConfig, sort: Sort) -> bool:
    """Whether the labels of all images must be read to choose among them."""
    return bool(changed_fields(config) & set(_OF_LABELS)) or sort not in ("random", "name")


@dataclass(frozen=True)
class TrueClasses:
    """The true class of each of n images.

    Attributes:
        names: of the classes of the images.
        labels: which of these each image has, int64 (n,), -1 for none.
        ids: the store's class of each of these, int64 (len(names),), -1 for none.
        are_several: whether images have several classes each, so that none is the true one.
    """

    names: Sequence[str]
    labels: np.ndarray
    ids: np.ndarray
    are_several: bool = False

    @property
    def in_store(self) -> np.ndarray:
        """The store's class of each image, int64 (n,), -1 where it is not known."""
        known = np.append(self.ids, -1)  # the last stands for none
        found: np.ndarray = known[self.labels]
        return found


def select_rows(
    rows: np.ndarray,
    config: FilterConfig,
    sort: Sort,
    seed: int,
    true: TrueClasses,
    class_names: Sequence[str],
    statistics: LabelStatistics | None,
) -> np.ndarray:
    """The rows that meet the conditions, in order.

    Args:
        rows: of images with labels, ascending, (n,).
        config: the conditions.
        sort: the order; equal ones, and "name", in the order of the keys.
        seed: of the random order.
        true: classes of the images of these rows.
        class_names: of the store.
        statistics: of these rows; needed if `reads_labels`.

    Raises:
        ConfigError: a class is not known, or images have no classes to compare with.
    """
    keep = np.ones(len(rows), bool)
    for name in ("class_name", "disagrees"):
        if true.are_several and getattr(config, name):
            raise ConfigError(
                f"filter.{name}: the images have several classes each, of which none is the true "
                "one; use filter.teacher_class, the most probable class of labels"
            )
    if config.class_name:
        if not len(true.names):
            raise ConfigError(
                "filter.class_name: the images have no classes; use images in class folders, or "
                "filter.teacher_class"
            )
        keep &= np.isin(true.labels, _find_classes("class_name", config.class_name, true.names))
    if statistics is not None:
        keep &= _by_labels(config, true, class_names, statistics)
    order = _order(rows, sort, seed, statistics)
    chosen: np.ndarray = rows[order[keep[order]]]
    return chosen


def _by_labels(
    config: FilterConfig,
    true: TrueClasses,
    class_names: Sequence[str],
    statistics: LabelStatistics,
) -> np.ndarray:
    """Which images meet the conditions on labels, bool (n,)."""
    entropy, top = statistics.entropy, statistics.top_probability
    keep = (entropy >= (config.min_entropy or 0.0)) & (top >= (config.min_top_probability or 0.0))
    keep &= entropy <= (math.inf if config.max_entropy is None else config.max_entropy)
    if config.max_top_probability is not None:
        keep &= top <= config.max_top_probability
    if config.teacher_class:
        wanted = _find_classes("teacher_class", config.teacher_class, class_names)
        keep &= np.isin(statistics.top_class, wanted)
    if config.disagrees:
        known = true.in_store
        if not (known >= 0).any():
            raise ConfigError(
                "filter.disagrees: no image has a true class that is a class of the store, so "
                "there is nothing to compare; use images in class folders of these names"
            )
        keep &= (known >= 0) & (known != statistics.top_class)
    return keep


def _order(
    rows: np.ndarray, sort: Sort, seed: int, statistics: LabelStatistics | None
) -> np.ndarray:
    if sort == "name":
        return np.arange(len(rows))
    if sort == "random":
        draws = uniforms(stream_key(seed), Purpose.PROBE, rows, 1)[:, 0]
    else:
        assert statistics is not None
        of_entropy = sort.endswith("entropy")
        draws = statistics.entropy if of_entropy else statistics.top_probability
        draws = draws if sort.startswith("low") else -draws
    order: np.ndarray = np.argsort(draws, kind="stable")
    return order


def _find_classes(option: str, wanted: Sequence[str], names: Sequence[str]) -> list[int]:
    """Positions of the wanted classes: by name, or by the first word of a WordNet id."""
    by_word: dict[str, list[int]] = {}
    for i, word in enumerate(display_names(names)):
        by_word.setdefault(word.casefold(), []).append(i)
    exact = {name: i for i, name in enumerate(names)}
    found = []
    for name in wanted:
        positions = [exact[name]] if name in exact else by_word.get(name.casefold(), [])
        if not positions:
            near = difflib.get_close_matches(name.casefold(), list(by_word), n=1)
            known = display_names(names[:3])
            hint = f"did you mean {near[0]}?" if near else f"it knows {', '.join(known)}, ..."
            raise ConfigError(f"filter.{option}: there is no class {name!r}; {hint}")
        found += positions
    return found
