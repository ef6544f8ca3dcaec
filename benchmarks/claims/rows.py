"""The comparisons, as data: which rows each claim of the paper needs.

    1  vanilla, vanilla with m crops, ReLabel, online KD, FKD             (Tables 1 and 3)
    2  codecs: full, hard, smoothing, MR-K, MS-K, MS-2K                   (Table 6)
    3  m = 1, 2, 4 ... for vanilla and FKD                                (Table 7)
    4  few stored crops against as many as epochs; with and without
       replacement                                                        (Sec. 4.1)
    5  fine-tuning a trained student, with and without the discriminator  (Table 4)

A row that several claims need is trained once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.claims.config import ClaimsConfig

Labels = tuple[str, int]
"""Codec and crops per image of a label store."""


@dataclass(frozen=True)
class Row:
    """One way to train the student.

    Attributes:
        name: of the way; also of its folder.
        options: fields of TrainConfig in which it differs from all others.
        labels: the store that it replays, if any.
        maps: whether it needs label maps.
        online: whether it runs the teacher online.
        starts_from: the row whose trained student it starts from, if any.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    labels: Labels | None = None
    maps: bool = False
    online: bool = False
    starts_from: str | None = None


def rows_of(claim: int, config: ClaimsConfig) -> list[Row]:
    """The rows of a claim, in the order of its table."""
    return list(_CLAIMS[claim](config))


def all_rows(config: ClaimsConfig) -> list[Row]:
    """The rows of all wanted claims, each once, a row after the one that it starts from."""
    wanted = [row for claim in config.claims for row in rows_of(claim, config)]
    if any(row.starts_from for row in wanted):
        wanted.insert(0, BASE)
    return list({row.name: row for row in wanted}.values())


def fkd_name(m: int, codec: str, stored: int, order: str = "epoch_permutation") -> str:
    """What a row of FKD is called."""
    return f"fkd-m{m}-{codec.replace(':', '')}-M{stored}" + ("-iid" if order == "iid" else "")


def _vanilla(m: int) -> Row:
    return Row(f"vanilla-m{m}", {"method": "vanilla", "crops_per_image": m})


def _fkd(m: int, codec: str, stored: int, order: str = "epoch_permutation") -> Row:
    options = {"method": "fkd", "crops_per_image": m, "order": order}
    return Row(fkd_name(m, codec, stored, order), options, labels=(codec, stored))


def _methods(config: ClaimsConfig) -> Iterator[Row]:
    m, codec = config.crops_per_image, f"ms:{config.kept}"
    yield _vanilla(1)
    yield _vanilla(m)
    yield Row("relabel", {"method": "relabel", "crops_per_image": 1}, maps=True)
    yield Row("kd-m1", {"method": "kd", "crops_per_image": 1}, online=True)
    yield Row(f"kd-m{m}", {"method": "kd", "crops_per_image": m}, online=True)
    yield _fkd(1, "full", config.epochs)  # what online KD does, but for the store
    yield _fkd(1, codec, config.epochs)
    yield _fkd(m, codec, config.epochs)


def _codecs(config: ClaimsConfig) -> Iterator[Row]:
    few, more = config.kept, config.kept_more
    for codec in ("full", "hard", "smoothing", f"mr:{few}", f"ms:{few}", f"ms:{more}"):
        yield _fkd(config.crops_per_image, codec, config.epochs)


def _crops_per_image(config: ClaimsConfig) -> Iterator[Row]:
    numbers = [m for m in config.many_crops if m <= config.epochs]
    yield from map(_vanilla, numbers)
    for m in numbers:
        yield _fkd(m, f"ms:{config.kept}", config.epochs)


def _stored_crops(config: ClaimsConfig) -> Iterator[Row]:
    m, codec = config.crops_per_image, f"ms:{config.kept}"
    for stored in (*config.few_crops, config.epochs):
        yield _fkd(m, codec, stored)
    yield _fkd(m, codec, config.epochs, "iid")


def _fine_tuning(config: ClaimsConfig) -> Iterator[Row]:
    """The same number of epochs again, from the vanilla student.

    Twice the epochs help by themselves: the fine-tuned vanilla row says how much.
    """
    m, codec = config.crops_per_image, f"ms:{config.kept}"
    yield _vanilla(1)
    yield _fkd(m, codec, config.epochs)
    again = {"method": "vanilla", "crops_per_image": 1}
    yield Row("fine-tuned-vanilla", again, starts_from=BASE.name)
    for kind in ("off", "official", "reversed"):
        yield Row(
            f"fine-tuned-discriminator-{kind}",
            {"method": "mealv2-fkd", "crops_per_image": m, "discriminator": kind},
            labels=(codec, config.epochs),
            starts_from=BASE.name,
        )


BASE = _vanilla(1)
"""Plain training: what others are compared with, and start from."""

_CLAIMS = {1: _methods, 2: _codecs, 3: _crops_per_image, 4: _stored_crops, 5: _fine_tuning}
