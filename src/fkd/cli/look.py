"""`fkd inspect`: what a label store holds, as tables or as JSON."""

import json
from dataclasses import asdict

from rich.table import Table

from fkd.cli.console import make_console
from fkd.store import LabelStore
from fkd.userfiles import home_path
from fkd.viewing.summary import StoreSummary, summarize


def inspect(
    store: str, *, num_samples: int = 8, partial: bool = False, json_output: bool = False
) -> None:
    """Show what a label store holds: its settings, sizes and a few sample labels.

    Args:
        store: the store's folder.
        num_samples: sample labels to print.
        partial: look into a store that is not finished, or of which only some shards are there.
        json_output: print one JSON object instead of tables.
    """
    opened = LabelStore.open(home_path(store), partial=partial)
    summary = summarize(opened, num_samples=num_samples)
    if json_output:
        # The one control character that JSON leaves as it is.
        print(json.dumps(asdict(summary), indent=2).replace("\x7f", "\\u007f"))
    else:
        _print_summary(summary, store)


def _print_summary(summary: StoreSummary, title: str) -> None:
    facts = Table(title=title, show_header=False, title_justify="left")
    for name, value in summary.facts.items():
        facts.add_row(name, value)
    for name, value in summary.statistics.items():
        facts.add_row(name, value)
    settings = Table(title="settings", show_header=False, title_justify="left")
    for name, value in summary.settings.items():
        settings.add_row(name, value)
    of_classes = summary.embeddings is None
    said = "the teacher's label" if of_classes else "nearest crops of other images, cosine"
    samples = Table("image", "crop", said, title="sample labels" if of_classes else "sample crops")
    for image, crop, label in summary.samples:
        samples.add_row(image, str(crop), str(label))
    console = make_console()
    for table in (facts, settings, *([samples] if summary.samples else [])):
        console.print(table, soft_wrap=False)  # cells are wrapped to the width of the terminal
