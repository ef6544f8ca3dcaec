"""What a student is trained against: one small file per method.

A method is one choice of views, targets and loss; read the files side by side (the paper's Fig. 5).

    method    views                     targets
    vanilla   fresh random crops        the ground truth
    kd        fresh random crops        a teacher, asked online
    fkd       crops of the label store  the label store
"""

from fkd.errors import ConfigError
from fkd.methods.fkd import FKD
from fkd.methods.kd import KD
from fkd.methods.method import Ingredients, Method, ViewKind
from fkd.methods.vanilla import Vanilla

METHODS: dict[str, type[Method]] = {"fkd": FKD, "vanilla": Vanilla, "kd": KD}

__all__ = ["METHODS", "Ingredients", "Method", "ViewKind", "find_method"]


def find_method(name: str) -> type[Method]:
    """The method of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in METHODS:
        raise ConfigError(f"method {name!r} is unknown; use one of {', '.join(METHODS)}")
    return METHODS[name]
