"""Model folders: what lies beside the weights and says which network they are of and what it sees.

    config.json               of timm (`save_for_hf`) and of fkd (`fkd.models.timm_config`):
                              "architecture", "num_classes", "label_names", "model_args",
                              "pretrained_cfg" with "input_size", "mean", "std", ...
    config.json               of transformers: "model_type", "id2label"; beside it
    preprocessor_config.json  "image_mean", "image_std", "size", "crop_size", "resample", ...

The values of a folder go before what timm knows of an architecture by name: weights that were
trained with another normalization lose ten points of accuracy with that of the name, and nothing
crashes.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fkd.checks import require_colors
from fkd.errors import ConfigError
from fkd.models.classes import imagenet_classes, refuse_duplicates
from fkd.models.network_arguments import check_arguments
from fkd.models.preprocessing import Preprocessing
from fkd.userfiles import read_text

CONFIG_FILE = "config.json"
PROCESSOR_FILE = "preprocessor_config.json"
OWN = "fkd"
"""The member of `config.json` that a run of fkd adds to timm's."""

_TIMM_DEFAULTS: dict[str, Any] = {
    "input_size": [3, 224, 224],
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}  # what timm assumes of a member that its file leaves out
_NO_CARD = "is no model card"
_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, as transformers writes them
_LONGEST_LICENSE = 100  # characters
_DEFAULT_LABELS = 2  # transformers writes no labels where there are its own two


@dataclass(frozen=True)
class ModelCard:
    """What a model folder says of its network.

    Attributes:
        name: the architecture, as `build_model` takes it; empty where a folder only has the name
            that transformers gives it.
        num_classes: outputs of the head; 0 where there is none.
        preprocessing: the input that the weights expect.
        kwargs: further arguments with which the network was built.
        license: of the weights, as timm's `config.json` may say it; None if unknown.
        has_head: whether the folder is that of a run which left a head of embeddings.
        multi_label: whether the folder is that of a run which learned each class by itself.
    """

    name: str
    num_classes: int
    preprocessing: Preprocessing
    kwargs: dict[str, Any] = field(default_factory=dict)
    license: str | None = None
    has_head: bool = False
    multi_label: bool = False


def read_card(folder: Path) -> tuple[ModelCard | None, list[str] | None]:
    """What a model folder says of its network, and what it calls the classes; None for unknown.

    Raises:
        ConfigError: a file is damaged, or files contradict each other.
    """
    if not (folder / CONFIG_FILE).exists():
        return None, None
    parsed: tuple[ModelCard, list[str] | None] = _parse(
        folder / CONFIG_FILE, lambda fields: _from_config(fields, folder)
    )
    return parsed


def is_described(folder: Path) -> bool:
    """Whether something beside the weights in a folder certainly describes them.

    Any program may leave a config.json beside a file that was given by its own name.
    """
    if not (folder / CONFIG_FILE).exists():
        return False
    if (folder / PROCESSOR_FILE).exists():
        return True
    return '"architecture"' in read_text("checkpoint", folder / CONFIG_FILE)


def _parse(path: Path, parse: Any) -> Any:
    """What `parse` makes of a JSON file."""
    text = read_text("checkpoint", path)
    try:
        return parse(json.loads(text))
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
        if _NO_CARD in str(error):  # said of a file beside this one
            raise
        raise ConfigError(
            f"checkpoint: {path} {_NO_CARD} ({error}); correct it, or put the weights "
            "into a folder of their own and name the network"
        ) from error


def _from_config(fields: Any, folder: Path) -> tuple[ModelCard, list[str] | None]:
    """timm's or transformers' `config.json`."""
    if isinstance(fields, dict) and isinstance(fields.get("architecture"), str):
        return _of_timm(fields)
    if isinstance(fields, dict) and ("model_type" in fields or "id2label" in fields):
        return _of_transformers(fields, folder / PROCESSOR_FILE)
    raise ConfigError('neither timm\'s "architecture" nor transformers\' "model_type" is in it')


def _of_timm(fields: dict[str, Any]) -> tuple[ModelCard, list[str] | None]:
    config = fields.get("pretrained_cfg", fields)  # older files have one level
    if not isinstance(config, dict):
        raise ConfigError("pretrained_cfg is no object")
    known = {name: value for name, value in config.items() if value is not None}
    input_of = {**_TIMM_DEFAULTS, **known}
    kwargs = check_arguments(fields.get("model_args") or {})
    sides = _of_channels(input_of["input_size"])
    side = _side(kwargs.get("img_size") or sides)
    require_colors("", input_of["mean"], input_of["std"])
    num_classes = _class_count(fields.get("num_classes", config.get("num_classes", 1000)))
    if kwargs.pop("in_chans", 3) != 3:
        raise ConfigError("the network does not take three colors")
    kwargs.pop("num_classes", None)
    names = fields.get("label_names") or config.get("label_names") or config.get("labels")
    if isinstance(names, dict):
        names = [names[key] for key in sorted(names, key=int)]
    name = fields["architecture"].partition(".")[0]  # the tag would name other weights than these
    if not name:
        raise ConfigError(f"its architecture {fields['architecture']!r} is no name of a network")
    card = ModelCard(
        name,
        num_classes,
        Preprocessing.from_json({**input_of, "input_size": side}),
        kwargs,
        _license(config.get("license")),
        _own(fields, "head"),
        _own(fields, "multi_label"),
    )
    return card, _checked_names(names, num_classes)


def _of_transformers(fields: dict[str, Any], processor: Path) -> tuple[ModelCard, list[str] | None]:
    labels = fields.get("id2label")
    names = None
    if labels is not None:
        names = [labels[key] for key in sorted(labels, key=int)]
        if [int(key) for key in sorted(labels, key=int)] != list(range(len(labels))):
            raise ConfigError("id2label does not number the classes from 0")
    num_classes = len(names) if names else fields.get("num_labels", _DEFAULT_LABELS)
    if names and all(name == f"LABEL_{i}" for i, name in enumerate(names)):
        names = None  # transformers' own, where the folder names none
    if not processor.exists():
        raise ConfigError(f"{PROCESSOR_FILE}, which says what the network sees, is not beside it")
    preprocessing = _parse(processor, preprocessing_of_processor)
    return ModelCard("", _class_count(num_classes), preprocessing), _checked_names(
        names, num_classes
    )


def preprocessing_of_processor(fields: Any) -> Preprocessing:
    """transformers' `preprocessor_config.json`; what it leaves out are ImageNet's usual values.

    Raises:
        ConfigError: images are not cut to squares, or resized in a way that is not known here.
    """
    if not isinstance(fields, dict):
        raise ConfigError("it is no object")
    whole = _side(fields.get("size", 224))
    cropped = fields.get("do_center_crop", "crop_size" in fields) and "crop_size" in fields
    side = _side(fields["crop_size"]) if cropped else whole
    mean, std = fields.get("image_mean"), fields.get("image_std")
    if fields.get("do_normalize", True) is False:
        mean, std = [0.0] * 3, [1.0] * 3
    resample = fields.get("resample", 2)
    if resample not in _RESAMPLE:
        raise ConfigError(f"its resample {resample!r} is neither bilinear (2) nor bicubic (3)")
    scale = 255 * float(fields.get("rescale_factor", 1 / 255))
    if not scale > 0:
        raise ConfigError(f"its rescale_factor {fields['rescale_factor']!r} leaves nothing")
    if fields.get("do_rescale", True) is False:
        scale = 255.0
    return Preprocessing.from_json(
        {
            "input_size": side,
            "interpolation": _RESAMPLE[resample],
            "mean": [float(m) / scale for m in mean or _TIMM_DEFAULTS["mean"]],
            "std": [float(s) / scale for s in std or _TIMM_DEFAULTS["std"]],
            "crop_pct": fields.get("crop_pct") or min(1.0, side / whole),
        }
    )


def _own(fields: dict[str, Any], name: str) -> bool:
    """Whether the run that wrote the folder says so."""
    own = fields.get(OWN)
    return isinstance(own, dict) and own.get(name) is True


def _license(value: Any) -> str | None:
    """A license in a few words; nothing of anything else that a file may say there."""
    usable = isinstance(value, str) and value.isprintable() and len(value) <= _LONGEST_LICENSE
    return value if usable and value else None


def _of_channels(input_size: Any) -> list[Any]:
    """Height and width of timm's input size, which begins with the number of colors."""
    if not isinstance(input_size, list) or len(input_size) != 3 or input_size[0] != 3:
        raise ConfigError(f"its input_size {input_size!r} is not that of images in three colors")
    return input_size[1:]


def _side(size: Any) -> int:
    """The side of a square, however it is written."""
    if isinstance(size, dict):
        sides = [size[name] for name in ("height", "width", "shortest_edge") if name in size]
    else:
        sides = size if isinstance(size, list) else [size]
    if not sides or any(side != sides[0] for side in sides):
        raise ConfigError(f"the network takes images of {size}; only squares are cut")
    side = int(sides[0])
    if side < 1:
        raise ConfigError(f"the network takes images of {size}, which have no pixels")
    return side


def _class_count(num_classes: Any) -> int:
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 0:
        raise ConfigError(f"the model card has no usable num_classes ({num_classes!r})")
    return num_classes


def _checked_names(names: Any, num_classes: int) -> list[str] | None:
    """Names of all classes; None where there are none, or ImageNet's, which are not unique."""
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError("its class names are no list of names")
    if len(names) != num_classes:
        raise ConfigError(f"it names {len(names)} classes, but the model has {num_classes}")
    if len(set(names)) < len(names) and imagenet_classes(num_classes) is not None:
        return None  # ImageNet's first words: "crane" is a bird and a machine
    refuse_duplicates(names, "it")
    return names
