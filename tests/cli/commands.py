"""A command of every verb that works, on small stores and images."""

from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import timm
import torch

from fkd.cli.arguments import options_of
from fkd.cli.paths import INPUTS, OUTPUTS, input_of
from fkd.cli.verbs import VERBS
from fkd.data.sources import ImagesConfig, open_source

NOT_PATHS = {"name", "model"}  # may be a folder, or the name of a model


@dataclass(frozen=True)
class Files:
    """Inputs of the verbs."""

    images: Path
    store: Path
    maps: Path
    weights: Path


def make_files(root: Path, make_images, make_store, classes=("ant", "bee", "cat")) -> Files:
    """Six images of three classes, labels and maps of them, and weights; all may be read by all."""
    folders = [name.replace("/", "") for name in classes]
    images = make_images(root / "images", folders, per_class=2)
    source = open_source(ImagesConfig(root=str(images)))
    store = make_store(root / "store", source, class_names=[*classes, "dog"]).path
    for image in images.glob("*/*.png"):
        file = root / "maps" / image.relative_to(images).with_suffix(".pt")
        file.parent.mkdir(parents=True, exist_ok=True)
        ids = torch.arange(5.0).expand(2, 2, 5).permute(2, 0, 1)
        torch.save(torch.stack([torch.full((5, 2, 2), 3.0), ids]), file)
    weights = root / "weights.safetensors"
    safetensors.torch.save_file(timm.create_model("test_resnet").state_dict(), weights)
    weights.chmod(0o644)
    return Files(images, store, root / "maps", weights)


def command(verb: str, files: Files, out: Path) -> list[str]:
    """Options of a verb, one "--option=value" each, without the verb; positional ones first."""
    images = f"--images.root={files.images}"
    teacher = ["--teacher.name=test_resnet", f"--teacher.checkpoint={files.weights}"]
    writes = f"--out={out}"
    store = str(files.store)
    few = ["--num_crops=2", "--batch_size=4", "--accuracy_images=0", "--spot_checks=0"]
    return {
        "plan": [images, *teacher, writes, *few],
        "label": [images, *teacher, writes, *few],
        "label-maps": [images, *teacher, writes, *few[1:]],
        "import-labels": ["--format=relabel", images, f"--labels={files.maps}", writes],
        "train": [
            *(images, f"--store={store}", "--student.name=test_resnet", writes),
            *("--epochs=2", "--crops_per_image=2", "--batch_size=8", "--num_workers=1"),
        ],
        "eval": ["test_resnet", images, teacher[1].replace("teacher.", "")],
        "probe": [
            *("test_resnet", images, f"--val.root={files.images}", f"--out={out}"),
            *(teacher[1].replace("teacher.", ""), "--input_size=32", "--knn.k=1"),
            *("--protocol.name=sgd", "--protocol.epochs=1", "--num_workers=0"),
        ],
        "inspect": [store],
        "verify": [store],
        "convert": [store, writes],
        "view": [store, images, f"--out={out}"],
        "analyze storage": [f"--store={store}", writes],
        "demo": [writes],
    }[verb]


def path_options() -> list[tuple[str, str]]:
    """(verb, option) of everything that names a file or a folder, from the list of options."""
    kinds = {*INPUTS, *OUTPUTS} - NOT_PATHS
    return [
        (verb, option)
        for verb in VERBS
        for option in (*options_of(verb).positional, *options_of(verb).names)
        if (input_of(option) or option.lstrip("-")) in kinds and (verb, option) not in _OTHER
    ]


_OTHER = {("train", "--maps")}  # settings of another verb
