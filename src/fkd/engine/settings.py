"""Which settings of a configuration were changed: those that have no effect are refused."""

from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from typing import Any

from fkd.errors import ConfigError


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


def _default(field: "Field[Any]") -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
