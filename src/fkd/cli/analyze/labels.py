"""`fkd analyze labels`: crops with their ReLabel and FKD labels (Fig. 2)."""

from typing import Any

from fkd.analysis.figures import prepare_folder, require_matplotlib, save_analysis
from fkd.analysis.label_criteria import CRITERIA
from fkd.analysis.label_examples import (
    ExamplesSetup,
    LabelExamplesConfig,
    find_examples,
    open_examples,
)
from fkd.analysis.label_figure import draw_examples
from fkd.cli.console import make_bar, make_console, print_remark
from fkd.data.sources import refuse_same_folder
from fkd.errors import ConfigError
from fkd.store.canonical import printable
from fkd.userfiles import home_path


def labels(config: LabelExamplesConfig) -> None:
    """Show crops on which ReLabel and FKD labels differ, with both labels (Fig. 2 of the paper).

    The crops are found among the stored ones of a sample of images, by stored labels; images are
    decoded for those that are shown. Beside the label map pooled at the crop box stand the full
    label, where it is known, and what is left of it by ms:K.
    """
    require_matplotlib()
    refuse_same_folder(config.out, config.images)
    console = make_console()
    setup = open_examples(config)
    prepare_folder(home_path(config.out))
    sample = setup.sample
    console.print(
        f"searched  {sample.crops.shape[1]} crops of each of {len(sample):,} images, drawn with "
        f"seed {config.sample.seed}"
    )
    with make_bar(console) as bar:
        task = bar.add_task("images", total=len(sample))
        examples, notes = find_examples(setup, lambda count: bar.advance(task, count))
    notes = [*setup.notes, *notes]
    for note in notes:
        print_remark(console, note)
    if not examples:
        raise ConfigError("sample: no crop meets a criterion; search more images or crops")
    class_names = list(setup.store.class_names)
    figure = draw_examples(examples, class_names, config.shown_classes)
    numbers = _settings(setup) | {
        "examples": [example.to_json(class_names) for example in examples],
        "notes": notes,
    }
    files = save_analysis(home_path(config.out), "labels", figure, numbers)
    for example in examples:
        choice = example.choice
        nearest = "" if choice.met else ", the nearest"
        console.print(
            f"({choice.criterion.number})       crop {example.crop_number} of "
            f"{printable(example.key)}: {choice.values}{nearest}"
        )
    console.print(f"figure    {files[0]}, {files[1].name}; numbers {files[2].name}")


def more_help() -> str:
    """The criteria, one line each."""
    lines = [f"  ({c.number}) {c.title}: {c.rule}" for c in CRITERIA]
    return "\n".join(["Crops are chosen by four criteria, each crop of another image:", *lines])


def _settings(setup: ExamplesSetup) -> dict[str, Any]:
    """What the figure was made of, but for paths of this machine."""
    return {
        "settings": {
            "seed": setup.config.sample.seed,
            "num_images": len(setup.sample),
            "crops_per_image": int(setup.sample.crops.shape[1]),
            "store_root_hash": setup.store.root_hash,
            "maps_root_hash": setup.maps.store.root_hash,
        }
    }
