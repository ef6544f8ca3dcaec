"""Which numbers can be classes: ids from 0, each with a name, or few enough to go without."""

from collections.abc import Sequence

from fkd.errors import ConfigError

MOST_UNNAMED = 2**15
"""Classes that may go without names, or as many as there are images: larger labels are no class ids
but numbers of something else, and every number up to the largest would become a class."""


def require_class_ids(
    low: int, high: int, *, num_images: int, names: Sequence[str] | None, where: str
) -> None:
    """Refuse labels that are no class ids.

    Args:
        low: the smallest label; -1 stands for images without a class.
        high: the largest label.
        num_images: in the data set.
        names: of the classes, where they have some.
        where: what messages call the place of the labels.

    Raises:
        ConfigError: a label is below -1, has no name, or is too large to go without one.
    """
    if low < -1:
        raise ConfigError(
            f"{where} has label {low}, but a class is a number from 0, or -1 for none; correct it, "
            "or leave the labels out"
        )
    if names is not None and high >= len(names):
        raise ConfigError(
            f"{where} has label {high}, but names for only {len(names)} classes; correct the names "
            "or the labels"
        )
    if names is None and high >= max(MOST_UNNAMED, num_images):
        raise ConfigError(
            f"{where} has label {high}, more than the classes of {num_images:,} images can be; "
            "number the classes from 0, or use names"
        )
