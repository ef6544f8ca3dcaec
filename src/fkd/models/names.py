"""The names of networks: timm's as they are, torchvision's after "torchvision/"."""

import difflib
import os
from dataclasses import dataclass
from typing import Literal

import timm
import torchvision
from timm.models import _registry

from fkd.errors import ConfigError
from fkd.models.architectures import embedders as _embedders  # noqa: F401  # known to timm, too
from fkd.models.architectures import reactnet as _reactnet  # noqa: F401  # known to timm, too
from fkd.models.architectures import sret as _sret  # noqa: F401  # makes its networks known to timm

_TORCHVISION = "torchvision/"
_TIMM = "timm/"  # how the Hugging Face hub writes timm's names
# Names that timm has given up, such as gluon_senet154, and what it calls them now; papers use them.
_FORMER: dict[str, str] = getattr(_registry, "_deprecated_models", {})  # has no public name


@dataclass(frozen=True)
class ModelName:
    """A known classification network.

    Attributes:
        library: whose it is.
        architecture: its name there.
        tag: which pretrained weights, such as "in1k" or "IMAGENET1K_V2"; empty for the default.
    """

    library: Literal["timm", "torchvision"]
    architecture: str
    tag: str = ""

    def __str__(self) -> str:
        prefix = _TORCHVISION if self.library == "torchvision" else ""
        return prefix + self.architecture + (f".{self.tag}" if self.tag else "")

    @property
    def library_name(self) -> str:
        """The name as its library takes it."""
        return str(self).removeprefix(_TORCHVISION)


def parse_model_name(name: str) -> ModelName:
    """The network called `name`, with or without a tag.

    Example:
        >>> parse_model_name("torchvision/resnet50.IMAGENET1K_V1").tag
        'IMAGENET1K_V1'

    Raises:
        ConfigError: there is none; close names or the known tags are in the message.
    """
    library: Literal["timm", "torchvision"] = "timm"
    if name.startswith(_TORCHVISION):
        library = "torchvision"
    bare = name.removeprefix(_TORCHVISION).removeprefix(_TIMM)
    bare = _FORMER.get(bare, bare)
    architecture, _, tag = bare.partition(".")
    known = torchvision_names() if library == "torchvision" else timm.list_models()
    if architecture not in known:
        everything = [*timm.list_models(), *(_TORCHVISION + n for n in torchvision_names())]
        close = difflib.get_close_matches(name.partition(".")[0], everything, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see timm.list_models()"
        if os.path.isfile(os.path.expanduser(name)):
            hint = (
                "it is a file: give its folder if a run wrote it, else the name of its network, "
                "and the file as the checkpoint"
            )
        elif _looks_like_path(name):
            hint = "there is no such folder either"
        raise ConfigError(f"unknown model {name!r}; {hint}")
    tags = _tags(library, architecture)
    if tag and tag not in tags:
        raise ConfigError(
            f"model {architecture} has no weights called {tag!r}; "
            f"choose from {', '.join(tags) or 'none'}"
        )
    return ModelName(library, architecture, tag)


def is_model_name(name: str) -> bool:
    """Whether a network is called `name`, whatever its tag."""
    bare = name.removeprefix(_TORCHVISION).removeprefix(_TIMM)
    architecture = _FORMER.get(bare, bare).partition(".")[0]
    if name.startswith(_TORCHVISION):
        return architecture in torchvision_names()
    return bool(timm.is_model(architecture))


def torchvision_names() -> list[str]:
    """Torchvision's classification networks."""
    return list(torchvision.models.list_models(module=torchvision.models))


def _looks_like_path(name: str) -> bool:
    """Whether a user probably meant a folder."""
    return "/" in name.removeprefix(_TORCHVISION).removeprefix(_TIMM) and ":" not in name


def _tags(library: str, architecture: str) -> list[str]:
    if library == "torchvision":
        return [weights.name for weights in torchvision.models.get_model_weights(architecture)]
    names = timm.list_pretrained(f"{architecture}.*")
    return [name.partition(".")[2] for name in names]
