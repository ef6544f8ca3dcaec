"""The README of a repository of the hub: what the labels or the weights are, and how to use them.

It is no part of a store: a README in its folder is left alone, and takes the place of this one.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from fkd.errors import escape_controls
from fkd.remote.contents import FINAL_WEIGHTS, Contents
from fkd.store import LabelStore
from fkd.store.hub import HubAddress
from fkd.store.provenance import TeacherFacts

# Licenses that the hub knows by these names and timm's models have; others are "other".
_LICENSES = frozenset(
    ("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "openrail", "gpl-3.0", "cc-by-4.0")
).union(f"cc-by-{kind}-4.0" for kind in ("sa", "nc", "nc-sa"))
_LONGEST = 120  # characters of a name
_SIZES = [(1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M")]
_SIZES += [(10**7, "1M<n<10M"), (10**8, "10M<n<100M")]
_TAGS = ["fkd", "knowledge-distillation"]


def make_card(folder: Path, contents: Contents, address: HubAddress) -> str:
    """The README of a store or a run, Markdown after YAML.

    Args:
        folder: of it.
        contents: its files.
        address: of the repository.
    """
    if contents.kind == "store":
        return _of_store(LabelStore.open(folder), contents, address)
    return _of_run(folder, contents, address)


def _of_store(store: LabelStore, contents: Contents, address: HubAddress) -> str:
    teachers = store.provenance.teachers
    front = {
        **_license([teacher.license for teacher in teachers]),
        "tags": [*_TAGS, "soft-labels"],
        "task_categories": ["image-classification"],
        "size_categories": [_size_category(store.num_images)],
        "viewer": False,
    }
    per_crop = store.num_bytes / (store.num_images * store.num_crops)
    dtype = f", values as {store.value_dtype}" if store.value_dtype else ""
    outputs = "classes" if store.is_of_classes else "dimensions of features"
    facts = {
        "images": f"{store.num_images:,}; they are not part of it",
        "crops per image (M)": f"{store.num_crops}",
        outputs: f"{store.num_classes:,}",
        "codec": f"`{_plain(store.codec.name)}`{dtype}",
        "form": f"{_plain(str(store.config.get('form', 'plain')))}",
        "teachers": "; ".join(map(_describe_teacher, teachers)) or "unknown",
        "size": f"{contents.num_bytes:,} bytes, {per_crop:.1f} per crop",
        "root hash": f"`{contents.root_hash}`",
    }
    where = _address_text(address, "datasets/")
    return _page(
        front,
        address.repository.partition("/")[2],
        _describe_labels(store),
        facts,
        [
            ("Made by", "console", f"{_command(store)}  # all settings: config.json"),
            ("In Python", "python", _store_lines(where, store)),
            ("On the command line", "console", _store_commands(where, contents.root_hash)),
        ],
    )


def _store_lines(where: str, store: LabelStore) -> str:
    return (
        "from fkd import LabelStore, MultiCropDataset, collate_crops\n"
        "from torchvision.datasets import ImageFolder\n"
        f'store = LabelStore.open("{where}")\n'
        'dataset = MultiCropDataset(ImageFolder("photos/train"), store, crops_per_image=4)'
    )


def _store_commands(where: str, root_hash: str) -> str:
    return (
        'pip install "fkd[hub]"\n'
        f"fkd train --store {where} --images.root photos/train --student.name resnet18 --out run\n"
        f"fkd pull {where} labels --root_hash {root_hash}"
    )


def _describe_labels(store: LabelStore) -> str:
    what = "many random crops of every image" if store.grid is None else "every image as a map"
    made = "made once by a large teacher"
    if _is_imported(store):
        made += " with other software and imported"
    boxes = ", with the crop boxes" if store.grid is None else ""
    return (
        f"Soft labels of {what}, {made}{boxes}. Any number of students train on them without the "
        "teacher, on the same images."
    )


def _is_imported(store: LabelStore) -> bool:
    return store.config.get("origin") == "imported"


def _command(store: LabelStore) -> str:
    """A command that makes such a store, with the settings that the store records."""
    images, out = "--images.root photos/train", "--out labels"
    if "converted_from" in store.config:
        return " ".join(["fkd convert LABELS", *_label_options(store), out])
    if _is_imported(store):
        kind = "FORMAT" if store.grid is None else "relabel"
        return f"fkd import-labels --format {kind} --labels FILES {images} {out}"
    if store.grid is not None:
        return " ".join(["fkd label-maps", images, *_teacher_options(store), out])
    seed = store.config.get("crops", {}).get("seed")
    seeds = [f"--crops.seed {seed}"] if isinstance(seed, int) else []
    options = [*_teacher_options(store), *_label_options(store), *seeds]
    return " ".join(["fkd label", images, *options, out])


def _teacher_options(store: LabelStore) -> list[str]:
    teachers = store.provenance.teachers
    if len(teachers) != 1 or teachers[0].name is None:
        return []
    return [f"--teacher.name {_plain(teachers[0].name)}"]


def _label_options(store: LabelStore) -> list[str]:
    options = [f"--num_crops {store.num_crops}", f"--codec {_plain(store.codec.name)}"]
    if store.config.get("form", "plain") == "compact":
        options.append("--form compact")
    if store.value_dtype:
        options.append(f"--value_dtype {store.value_dtype}")
    return options


def _of_run(folder: Path, contents: Contents, address: HubAddress) -> str:
    network = _read_json(folder / "config.json")
    settings = _read_yaml(folder / "config.yaml")
    config = network.get("pretrained_cfg")
    license_ = config.get("license") if isinstance(config, dict) else None
    name = _plain(str(network.get("architecture", "unknown")))
    weights = next(i.num_bytes for i in contents.items if i.name == FINAL_WEIGHTS)
    of_timm = "/" not in name and name != "unknown"
    front = {
        **_license([license_ if isinstance(license_, str) else None]),
        "tags": [*_TAGS, *(["timm"] if of_timm else [])],
        "pipeline_tag": "image-classification",
        **({"library_name": "timm"} if of_timm else {}),
    }
    data = _read_json(folder / "env.json").get("data", {})
    labels = data.get("store_root_hash") if isinstance(data, dict) else None
    facts = {
        "network": f"`{name}`",
        "outputs": f"{network.get('num_classes', 'unknown')}",
        "method": f"`{_plain(str(settings.get('method', 'unknown')))}`",
        "epochs": f"{settings.get('epochs', 'unknown')}",
        "labels": f"a store with the root hash `{_plain(str(labels))}`" if labels else "no store",
        "weights": f"{weights:,} bytes",
        "list of files": f"SHA-256 `{contents.root_hash}`",
    }
    where = address.repository
    commands = (
        f"fkd pull {_address_text(address, '')} student\nfkd eval student --images.root photos/val"
    )
    timm_lines = (
        "import timm\n"
        f'model = timm.create_model("hf-hub:{where}", pretrained=True).eval()\n'
        "config = timm.data.resolve_model_data_config(model)\n"
        "transform = timm.data.create_transform(**config)"
    )
    uses = [("In Python", "python", timm_lines)] if of_timm and not address.folder else []
    return _page(
        front,
        where.partition("/")[2],
        "A student that was trained with fkd, and what its training has left.",
        facts,
        [
            ("Made by", "console", "fkd train --config config.yaml"),
            *uses,
            ("On the command line", "console", commands),
        ],
    )


def _page(
    front: dict[str, Any],
    title: str,
    text: str,
    facts: dict[str, str],
    blocks: Sequence[tuple[str, str, str]],
) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    code = "\n\n".join(f"## {head}\n\n```{kind}\n{body}\n```" for head, kind, body in blocks)
    header = yaml.safe_dump(front, sort_keys=False)
    return (
        f"---\n{header}---\n\n# {_plain(title)}\n\n{text}\n\n| | |\n|---|---|\n{rows}\n\n{code}\n"
    )


def _license(licenses: Sequence[str | None]) -> dict[str, str]:
    """The license of the card: that of the weights, if all have one that the hub knows."""
    known = {each.strip().lower() for each in licenses if each}
    if not known or None in licenses:
        return {"license": "unknown"}
    if len(known) == 1 and known <= _LICENSES:
        return {"license": known.pop()}
    return {"license": "other", "license_name": _plain(", ".join(sorted(known)))}


def _describe_teacher(teacher: TeacherFacts) -> str:
    license_ = _plain(teacher.license) if teacher.license else "unknown"
    return f"`{_plain(teacher.name or 'unknown')}` (license of its weights: {license_})"


def _size_category(count: int) -> str:
    return next((name for limit, name in _SIZES if count < limit), "100M<n<1B")


def _address_text(address: HubAddress, prefix: str) -> str:
    revision = f"@{address.revision}" if address.revision else ""
    folder = f"/{address.folder}" if address.folder else ""
    return f"hf://{prefix}{address.repository}{revision}{folder}"


def _plain(text: str) -> str:
    """Data as text that means nothing to Markdown."""
    return escape_controls(text)[:_LONGEST].translate({ord(c): "_" for c in "`|<>[]"})


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}
