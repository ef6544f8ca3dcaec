"""A command of every verb that works, on small stores and images."""

import json
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import timm
import torch

from fkd.cli.arguments import options_of
from fkd.cli.paths import INPUTS, OUTPUTS, input_of
from fkd.cli.verbs import VERBS
from fkd.data.sources import ImagesConfig, open_source
from fkd.labeling.foreign.run import ImportConfig, import_labels
from tests.viewing.folders import write_run

NOT_PATHS = {"name", "model"}  # may be a folder, or the name of a model


@dataclass(frozen=True)
class Files:
    """Inputs of the verbs."""

    images: Path
    store: Path
    maps: Path
    map_store: Path
    weights: Path
    run: Path


def make_files(root: Path, make_images, make_store, classes=("ant", "bee", "cat")) -> Files:
    """Six images of three classes, labels, maps, weights and a run; all may be read by all."""
    folders = [name.replace("/", "") for name in classes]
    images = make_images(root / "images", folders, per_class=2)
    source = open_source(ImagesConfig(root=str(images)))
    store = make_store(root / "store", source, class_names=[*classes, "dog"]).path
    for image in images.glob("*/*.png"):
        file = root / "maps" / image.relative_to(images).with_suffix(".pt")
        file.parent.mkdir(parents=True, exist_ok=True)
        ids = torch.arange(5.0).expand(2, 2, 5).permute(2, 0, 1)
        torch.save(torch.stack([torch.full((5, 2, 2), 3.0), ids]), file)
    names = root / "names.json"
    names.write_text(json.dumps([*classes, "dog", "elk"]))
    import_labels(
        ImportConfig(
            images=ImagesConfig(root=str(images)),
            format="relabel",
            labels=str(root / "maps"),
            out=str(root / "map-store"),
            classes=str(names),
        )
    )
    weights = root / "weights.safetensors"
    safetensors.torch.save_file(timm.create_model("test_resnet").state_dict(), weights)
    weights.chmod(0o644)
    run = write_run(root / "run")
    return Files(images, store, root / "maps", root / "map-store", weights, run)


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
        "merge": [str(files.store), images, writes],
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
        "export": [
            *("test_resnet", teacher[1].replace("teacher.", ""), writes, "--format=pt2"),
            *("--input_size=32", "--latency.runs=0"),
        ],
        "transfer": [
            *("--task=classification", images, f"--val.root={files.images}", writes),
            *("--backbone=test_resnet", teacher[1].replace("teacher.", ""), "--epochs=1"),
            *("--batch_size=8", "--input_size=32", "--num_workers=0"),
        ],
        "inspect": [store],
        "verify": [store],
        "convert": [store, writes],
        "push": [store, str(out)],
        "pull": [store, str(out)],
        "view": [store, images, f"--out={out}"],
        "analyze storage": [f"--store={store}", writes],
        "analyze distance": [images, f"--store={store}", f"--maps={files.map_store}", writes],
        "analyze labels": [images, f"--store={store}", f"--maps={files.map_store}", writes],
        "report": [str(files.run), writes],
        "analyze attention": [
            *("test_resnet", images, teacher[1].replace("teacher.", ""), writes),
            *("--num_shown=1", "--num_images=2", "--input_size=64", "--num_workers=0"),
        ],
        "analyze teachers": [
            *(images, writes, "--num_images=4", "--num_crops=2", "--batch_size=4"),
            f"--models.net={{name: test_resnet, checkpoint: {files.weights}, input_size: 32}}",
        ],
        "analyze coverage": [f"--store={store}", images, writes, "--epochs=8"],
        "analyze duplicates": [images, writes],
        "analyze time": [
            *(images, "--student.name=test_resnet", "--student.input_size=32", writes),
            *("--batch_size=4", "--steps=1", "--repeats=1", "--methods=[fkd]"),
            *("--crops_per_image=[2]", "--num_workers=0", "--device=cpu"),
        ],
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
