"""What a student is trained against: one small file per method.

A method is one choice of crops, targets and loss; read the files side by side (the paper's Fig. 5).

    method      crops                     targets
    vanilla     fresh random crops        true classes
    kd          fresh random crops        an online teacher
    funmatch    fresh, mixed for both     an online teacher that sees the mixture
    deit        fresh random crops        true classes and an online teacher, token by token
    mealv2      fresh random crops        several online teachers; a discriminator
    fkd         crops of the label store  the label store
    mealv2-fkd  crops of the label store  the label store; a discriminator
    relabel     fresh random crops        label maps of the whole images, pooled
    s2bnn       fresh random crops        embeddings of an online self-supervised teacher
    s2bnn-both  fresh, two of an image    the same, and the other crop against a queue
    moco        fresh, two of an image    the other crop against a queue
    fkd-ssl     crops of the label store  embeddings of the label store
"""

from fkd.errors import ConfigError
from fkd.methods.deit import Deit, DeitConfig
from fkd.methods.embeddings import SslConfig
from fkd.methods.fkd import FKD
from fkd.methods.fkd_ssl import FkdSsl
from fkd.methods.funmatch import FunMatch
from fkd.methods.kd import KD
from fkd.methods.mealv2 import MealV2, MealV2Config, MealV2FKD
from fkd.methods.method import CropSourceKind, Method, MethodInputs
from fkd.methods.relabel import ReLabel, ReLabelConfig
from fkd.methods.s2bnn import S2BNN, ContrastConfig, MoCo, S2BNNBoth
from fkd.methods.vanilla import Vanilla

METHODS: dict[str, type[Method]] = {
    "fkd": FKD,
    "vanilla": Vanilla,
    "kd": KD,
    "funmatch": FunMatch,
    "deit": Deit,
    "mealv2": MealV2,
    "mealv2-fkd": MealV2FKD,
    "relabel": ReLabel,
    "s2bnn": S2BNN,
    "s2bnn-both": S2BNNBoth,
    "moco": MoCo,
    "fkd-ssl": FkdSsl,
}

__all__ = [
    "METHODS",
    "ContrastConfig",
    "CropSourceKind",
    "DeitConfig",
    "MealV2Config",
    "Method",
    "MethodInputs",
    "ReLabelConfig",
    "SslConfig",
    "find_method",
]


def find_method(name: str) -> type[Method]:
    """The method of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in METHODS:
        raise ConfigError(f"method {name!r} is unknown; use one of {', '.join(METHODS)}")
    return METHODS[name]
