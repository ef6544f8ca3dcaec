"""How often a schedule uses each stored crop of an image, and how many crops are worth storing.

Nothing is estimated: the requests of the order that training follows are answered by the function
that training asks which crops to read. What an image shows does not depend on the other images, so
a sample of the images is exact for these.

Source: FKD (Shen and Xing, ECCV 2022), Sec. 4.1; the authors' code draws m of M at every access,
which leaves 55 % of 500 stored crops, and 22 % of 200, unused after 300 crop-epochs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fkd.analysis.figures import COLORS, figure_style, new_figure
from fkd.checks import require_one_of, require_whole
from fkd.data.crop_sources import CropOrder, crop_numbers
from fkd.engine.order import Order
from fkd.engine.schedule import Pass, ScheduleConfig, plan_passes
from fkd.errors import ConfigError
from fkd.randomness import stream_keys
from fkd.training.config import CROPS_PER_IMAGE

ENOUGH = 0.9
"""Share of the most different crops that a run could show, which counts as nearly all."""

_MULTIPLES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4)  # of the epochs: numbers M to compare
_COMPARED_IMAGES = 16  # for each of them
_IMAGES_AT_ONCE = 256
_MOST_BARS, _LEAST_TAIL = 12, 0.005  # of the figure


@dataclass(frozen=True, kw_only=True)
class CoverageConfig:
    """A store and a schedule; but for `num_crops`, settings of `fkd train`.

    Attributes:
        num_crops: M, stored of each image.
        epochs: how often every image is seen, counted in crops.
        crops_per_image: m; by default that of `fkd train`.
        order: how stored crops are drawn.
        schedule: warm-up and single-crop ending; its learning rates do not matter here.
        seed: of the run.
    """

    num_crops: int
    epochs: int = 300
    crops_per_image: int | None = None
    order: CropOrder = "epoch_permutation"
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        require_whole(1, "num_crops", self.num_crops)
        require_whole(None, "seed", self.seed)
        require_one_of(CropOrder, "order", self.order)
        if self.m > self.num_crops:
            raise ConfigError(
                f"crops_per_image is {self.m}, but only {self.num_crops} crops of an image are "
                "stored; lower crops_per_image"
            )
        _ = self.passes  # checks epochs, crops_per_image and schedule

    @property
    def m(self) -> int:
        """Crops of an image in a batch."""
        if self.crops_per_image is not None:
            return self.crops_per_image
        return min(CROPS_PER_IMAGE["stored"], self.num_crops)

    @property
    def passes(self) -> list[Pass]:
        """Those of the run."""
        return plan_passes(self.epochs, self.m, self.schedule)


@dataclass(frozen=True)
class Coverage:
    """How often stored crops are used by a run.

    Attributes:
        num_images: images that were followed.
        num_crops: M.
        uses: how many crops are used 0, 1, 2 ... times; they sum to num_images * M.
        least_used: share of the crops of an image that are used at least once, the smallest of all
            images, in [0, 1].
        most_used: likewise the largest.
    """

    num_images: int
    num_crops: int
    uses: tuple[int, ...]
    least_used: float
    most_used: float

    @property
    def share_used(self) -> float:
        """Share of the stored crops that are used at least once."""
        return 1.0 - self.uses[0] / sum(self.uses)

    @property
    def different_crops(self) -> float:
        """Different crops that an image shows, mean over the images."""
        return self.share_used * self.num_crops

    @property
    def mean_uses(self) -> float:
        """Uses of a crop, over those that are used at all."""
        total = sum(times * count for times, count in enumerate(self.uses))
        return total / max(1, sum(self.uses[1:]))


def measure_coverage(
    config: CoverageConfig,
    keys: Sequence[bytes],
    progress: Callable[[int], None] = lambda num_accesses: None,
) -> Coverage:
    """Follow a run over these images and count how often each of their crops is used.

    Args:
        config: the store and the schedule.
        keys: of the images.
        progress: called with the number of images that were just accessed, which sums up to
            len(keys) times the number of passes.
    """
    uses = count_uses(config, keys, progress)
    used = (uses > 0).mean(axis=1)
    return Coverage(
        len(keys),
        config.num_crops,
        tuple(np.bincount(uses.ravel()).tolist()),
        float(used.min()),
        float(used.max()),
    )


def count_uses(
    config: CoverageConfig,
    keys: Sequence[bytes],
    progress: Callable[[int], None] = lambda num_accesses: None,
) -> np.ndarray:
    """How often a run uses each crop, int64 (len(keys), M); arguments as `measure_coverage`."""
    streams = stream_keys(config.seed, keys)
    uses = np.zeros((len(keys), config.num_crops), np.int64)
    order = Order(
        images=np.arange(len(keys)),
        passes=config.passes,
        batch_size=_IMAGES_AT_ONCE * config.m,  # of any size: it does not change what is used
        seed=config.seed,
    )
    for chunk in order.chunks(0):
        images = np.array([request.image for request in chunk.requests])
        _, start, count = chunk.requests[0]
        numbers = crop_numbers(
            streams[images],
            config.num_crops,
            range(start, start + count),
            crops_per_image=config.m,
            offset=config.schedule.warmup_epochs,
            order=config.order,
        )
        np.add.at(uses, (images[:, None], numbers), 1)
        progress(len(images))
    return uses


def compare_num_crops(
    config: CoverageConfig, keys: Sequence[bytes]
) -> dict[CropOrder, list[Coverage]]:
    """The same schedule with fewer and with more stored crops, in ascending order of M, for both
    orders; on a few of the images.
    """
    few = keys[:_COMPARED_IMAGES]
    wanted = {round(config.epochs * multiple) for multiple in _MULTIPLES} | {config.num_crops}
    orders: tuple[CropOrder, ...] = ("epoch_permutation", "iid")
    return {
        order: [
            measure_coverage(
                replace(config, num_crops=num_crops, crops_per_image=config.m, order=order), few
            )
            for num_crops in sorted(wanted)
            if num_crops >= config.m
        ]
        for order in orders
    }


def enough_crops(config: CoverageConfig, compared: Sequence[Coverage]) -> int | None:
    """The smallest of these M with which an image shows nearly as many different crops as the run
    has epochs, which is the most it could; None if none of them is enough.
    """
    enough = (c.num_crops for c in compared if c.different_crops >= ENOUGH * config.epochs)
    return min(enough, default=None)


def coverage_numbers(coverage: Coverage) -> dict[str, Any]:
    """A coverage in JSON's types."""
    return {
        "num_images": coverage.num_images,
        "num_crops": coverage.num_crops,
        "share_used": coverage.share_used,
        "different_crops": coverage.different_crops,
        "mean_uses_of_used_crops": coverage.mean_uses,
        "least_share_of_an_image": coverage.least_used,
        "largest_share_of_an_image": coverage.most_used,
        "crops_by_uses": list(coverage.uses),
    }


@figure_style()
def draw_coverage(
    config: CoverageConfig, coverage: Coverage, compared: dict[CropOrder, list[Coverage]]
) -> Any:
    """Left: crops by how often they are used. Right: different crops of an image for each M."""
    figure = new_figure(8.0, 3.2)
    left, right = figure.subplots(1, 2)
    _draw_uses(left, coverage)
    _draw_compared(right, config, compared)
    figure.suptitle(
        f"{config.epochs} epochs, M = {config.num_crops} stored, m = {config.m} in a batch, order "
        f"{config.order}: {coverage.share_used:.1%} of the crops are used",
        x=0.01,
        ha="left",
        fontsize=10,
    )
    return figure


def _draw_uses(axes: Any, coverage: Coverage) -> None:
    shares = np.array(coverage.uses) / sum(coverage.uses)
    tails = shares[::-1].cumsum()[::-1]  # used so often or more often
    bars_shown = min(_MOST_BARS, max(2, int((tails >= _LEAST_TAIL).sum())))
    shown = shares[:bars_shown]
    names = [str(times) for times in range(len(shown))]
    if len(shares) > bars_shown:
        shown = np.append(shown[:-1], tails[bars_shown - 1])
        names[-1] += "+"
    colors = [COLORS[6], *[COLORS[0]] * (len(shown) - 1)]
    bars = axes.bar(names, 100 * shown, color=colors)
    labels = [f"{100 * s:.0f}" if s >= 0.01 else f"{100 * s:.1g}" if s else "" for s in shown]
    axes.bar_label(bars, labels, padding=1, fontsize=7)
    axes.set_xlabel("uses of a crop in the run")
    axes.set_ylabel("stored crops, %")
    axes.set_title("crops by uses (gray: never)")


def _draw_compared(
    axes: Any, config: CoverageConfig, compared: dict[CropOrder, list[Coverage]]
) -> None:
    for color, (order, rows) in zip(COLORS, compared.items(), strict=False):
        x = [row.num_crops for row in rows]
        axes.plot(x, [row.different_crops for row in rows], "o-", ms=3.5, color=color, label=order)
    axes.axhline(config.epochs, color=COLORS[6], lw=0.8, ls=":")
    axes.axvline(config.num_crops, color=COLORS[6], lw=0.8, ls="--")
    x = sorted({row.num_crops for rows in compared.values() for row in rows})
    axes.set_xscale("log")
    axes.set_xticks(x, [f"{value:,}" for value in x], fontsize=7, rotation=45)
    axes.minorticks_off()
    axes.set_ylim(0, 1.08 * config.epochs)
    axes.set_xlabel("M, crops stored of an image (dashed: these)")
    axes.set_ylabel("different crops in the run")
    axes.set_title(f"by number of stored crops (dotted: {config.epochs} epochs)")
    axes.legend(loc="lower right", fontsize=8, frameon=True, edgecolor="none")
