"""A command of every verb that works, on small stores and images."""

from dataclasses import dataclass
from pathlib import Path

from fkd.cli.arguments import options_of
from fkd.cli.paths import INPUTS, OUTPUTS
from fkd.cli.verbs import VERBS

NOT_PATHS = {"name", "model"}  # may be a folder, or the name of a model


@dataclass(frozen=True)
class Files:
    """Inputs of the verbs."""

    images: Path
    store: Path
    maps: Path
    weights: Path


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
        "import-maps": [images, f"--maps={files.maps}", writes],
        "train": [
            *(images, f"--store={store}", "--student.name=test_resnet", writes),
            *("--epochs=2", "--crops_per_image=2", "--batch_size=8", "--num_workers=1"),
        ],
        "eval": ["test_resnet", images, teacher[1].replace("teacher.", "")],
        "inspect": [store],
        "verify": [store, images],
        "convert": [store, writes],
        "view": [store, images, f"--out={out}"],
        "demo": [writes],
    }[verb]


def path_options() -> list[tuple[str, str]]:
    """(verb, option) of everything that names a file or a folder, from the list of options."""
    kinds = {*INPUTS, *OUTPUTS} - NOT_PATHS
    return [
        (verb, option)
        for verb in VERBS
        for option in (*options_of(verb).positional, *options_of(verb).names)
        if option.lstrip("-").rpartition(".")[2] in kinds and (verb, option) not in _OTHER
    ]


_OTHER = {("train", "--maps")}  # settings of another verb
