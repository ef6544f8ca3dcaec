"""Checks of settings: numbers in range, names among those known, and nothing set in vain.

Each takes the name of a setting as the user writes it and its value; a value of None, which stands
for a default, passes.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, fields
from numbers import Real
from typing import Any, get_args

from fkd.errors import ConfigError


def require_whole(least: int | None, name: str, value: object) -> None:
    """Refuse what is not a whole number: fractions, truth values and text; and a smaller one.

    Args:
        least: the smallest that passes; None for any.
        name: of the setting.
        value: given for it.

    Raises:
        ConfigError: names the setting and the value.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} must be a whole number (an int), got {value!r}")
    require_at_least(-math.inf if least is None else least, name, value)


def require_at_least(least: float, name: str, value: float | None) -> None:
    """Refuse a smaller number.

    Raises:
        ConfigError: names the setting and the value.
    """
    _require_number(name, value)
    if value is not None and not value >= least:  # NaN is refused, too
        raise ConfigError(f"{name} must be at least {least}, got {value}")


def require_positive(name: str, value: float | None) -> None:
    """Refuse 0, negative numbers and those that are not finite.

    Raises:
        ConfigError: names the setting and the value.
    """
    _require_number(name, value)
    if value is not None and not 0.0 < value < math.inf:
        raise ConfigError(f"{name} must be above 0 and finite, got {value}")


def require_in(interval: str, name: str, value: float | None) -> None:
    """Refuse a number outside an interval such as "[0, 1)".

    Raises:
        ConfigError: names the setting, the value and the interval.
    """
    _require_number(name, value)
    if value is None:
        return
    low, high = map(float, interval[1:-1].split(","))
    inside = low <= value <= high
    excluded = (interval[0] == "(" and value == low) or (interval[-1] == ")" and value == high)
    if excluded or not inside:
        raise ConfigError(f"{name} must lie in {interval}, got {value}")


def require_one_of(choices: object, name: str, value: str | None) -> None:
    """Refuse a value that is not one of a `Literal`.

    Raises:
        ConfigError: names the setting, the value and the choices.
    """
    known = get_args(choices)
    if value is not None and value not in known:
        raise ConfigError(f"{name}: {value!a} is none of {', '.join(known)}")


def require_colors(prefix: str, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """Refuse a mean or a deviation of the colors that is not three usable numbers.

    Args:
        prefix: of the names of the settings, such as "teacher.".
        mean: where white is 1; those of 0 to 255 are refused.
        std: likewise.

    Raises:
        ConfigError: names the setting and the value.
    """
    for name, values in (("mean", mean), ("std", std)):
        if values is None:
            continue
        try:
            colors = [float(value) for value in values]
        except (TypeError, ValueError):
            colors = []
        usable = len(colors) == 3 and all(0 <= color <= 1 for color in colors)
        if not usable or (name == "std" and 0.0 in colors):
            raise ConfigError(
                f"{prefix}{name} must be three numbers for red, green and blue where white is 1, "
                f"such as [0.485, 0.456, 0.406], got {colors or values!r}"
            )


def changed_fields(config: Any) -> set[str]:
    """Names of the fields of a dataclass whose values differ from their defaults.

    Fields without a default are never among them.
    """
    with_default = {field.name: _default(field) for field in fields(config)}
    return {
        name
        for name, default in with_default.items()
        if default is not MISSING and getattr(config, name) != default
    }


def refuse_unused(config: Any, unused: Iterable[str], *, prefix: str, user: str) -> None:
    """Refuse changed settings that would have no effect.

    Args:
        config: a dataclass.
        unused: names of its fields that have no effect.
        prefix: put before the name of a field, such as "optimizer.".
        user: what does not use them, such as "optimizer adamw".

    Raises:
        ConfigError: one of `unused` is not at its default.
    """
    for name in sorted(changed_fields(config) & set(unused)):
        raise ConfigError(f"{prefix}{name}: {user} does not use it; leave it out")


def _require_number(name: str, value: object) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
        raise ConfigError(f"{name} must be a number, got {value!r}")


def _default(field: "Field[Any]") -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
