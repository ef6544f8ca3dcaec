"""Checks of settings: what each lets pass, and what its message names."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from fkd.checks import (
    changed_fields,
    refuse_unused,
    require_at_least,
    require_in,
    require_one_of,
    require_positive,
    require_whole,
)
from fkd.errors import ConfigError

NAN, INF = float("nan"), float("inf")


def test_at_least():
    for value in (1, 1.5, INF, None):
        require_at_least(1, "epochs", value)
    for value in (0, -1, NAN):
        with pytest.raises(ConfigError, match=f"^epochs must be at least 1, got {value}$"):
            require_at_least(1, "epochs", value)


@pytest.mark.parametrize("value", [1.0, 1.5, True, False, "4", NAN, INF, [1], b"1", 1 + 0j])
def test_whole(value):
    for good in (1, 7, 2**70, None):
        require_whole(1, "epochs", good)
    require_whole(None, "seed", -5)
    with pytest.raises(ConfigError, match=r"^epochs must be a whole number \(an int\), got "):
        require_whole(1, "epochs", value)
    for least, small in ((1, 0), (0, -1)):
        with pytest.raises(ConfigError, match=f"^epochs must be at least {least}, got {small}$"):
            require_whole(least, "epochs", small)


@pytest.mark.parametrize("value", [True, "0.5", [1], 1j])
def test_what_is_no_number_is_refused_by_every_check_of_numbers(value):
    for check in (
        lambda: require_at_least(0, "lr", value),
        lambda: require_positive("lr", value),
        lambda: require_in("[0, 1]", "lr", value),
    ):
        with pytest.raises(ConfigError, match=r"^lr must be a number, got "):
            check()


def test_positive():
    for value in (1e-9, 3, None):
        require_positive("lr", value)
    for value in (0.0, -1.0, INF, NAN):
        with pytest.raises(ConfigError, match=f"^lr must be above 0 and finite, got {value}$"):
            require_positive("lr", value)


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1]", (0, 0.5, 1.0, None), (-1e-9, 1.1, NAN, INF)),
        ("(0, 1)", (1e-9, 0.5, None), (0.0, 1, NAN)),
        ("[0, 1)", (0.0, 0.9), (1.0, -0.1)),
        ("(0, 1]", (1.0, 0.1), (0, 2)),
    ],
)
def test_interval(interval, inside, outside):
    for value in inside:
        require_in(interval, "prob", value)
    for value in outside:
        with pytest.raises(ConfigError) as caught:
            require_in(interval, "prob", value)
        assert str(caught.value) == f"prob must lie in {interval}, got {value}"


def test_one_of():
    choices = Literal["hard", "soft"]
    for value in ("hard", "soft", None):
        require_one_of(choices, "kind", value)
    with pytest.raises(ConfigError, match=r"^kind: 'firm' is none of hard, soft$"):
        require_one_of(choices, "kind", "firm")


@dataclass
class Example:
    required: int
    number: int = 1
    items: list[int] = field(default_factory=list)


def test_changed_fields():
    assert changed_fields(Example(5)) == set()
    assert changed_fields(Example(5, number=2, items=[1])) == {"number", "items"}


def test_unused_settings_are_refused():
    refuse_unused(Example(5), {"number", "items"}, prefix="a.", user="method x")
    with pytest.raises(ConfigError, match=r"^a\.items: method x does not use it; leave it out$"):
        refuse_unused(Example(5, 2, [1]), {"items"}, prefix="a.", user="method x")
