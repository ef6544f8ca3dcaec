"""`fkd inspect` and `fkd view`: what a label store holds, as tables or as a page."""

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fkd.data.sources import ImagesConfig, open_source
from fkd.data.subset import labeled_part
from fkd.store import LabelStore
from fkd.viewing.page import PageConfig, render_page
from fkd.viewing.summary import StoreSummary, summarize


def inspect(
    store: Path, *, num_samples: int = 8, partial: bool = False, json_output: bool = False
) -> None:
    """Show what a label store holds: its settings, sizes and a few sample labels.

    Args:
        store: the store's folder.
        num_samples: sample labels to print.
        partial: look into a store that is not finished.
        json_output: print one JSON object instead of tables.
    """
    summary = summarize(LabelStore.open(store, partial=partial), num_samples=num_samples)
    if json_output:
        print(json.dumps(asdict(summary), indent=2))
    else:
        _print_summary(summary, str(store))


def view(
    store: Path,
    images: ImagesConfig,
    *,
    out: Path | None = None,
    page: PageConfig = PageConfig(),  # noqa: B008 - frozen, and the parser reads its defaults
) -> None:
    """Write one HTML page that shows images, crop boxes and the teacher's label of each crop.

    Args:
        store: the store's folder.
        images: the images that were labeled.
        out: the page's file; by default STORE.html beside the store.
        page: how much to show.
    """
    target = out or store.with_name(store.name + ".html")
    labels = LabelStore.open(store)
    source = labeled_part(open_source(images), labels)
    target.write_text(render_page(labels, source, page), encoding="utf-8")
    print(f"{target} ({target.stat().st_size / 1e6:.1f} MB): open it in a browser")


def _print_summary(summary: StoreSummary, title: str) -> None:
    console = Console()
    facts = Table(title=title, show_header=False, title_justify="left")
    for name, value in summary.facts.items():
        facts.add_row(name, value)
    facts.add_row("mean top probability", f"{summary.mean_confidence:.3f}")
    facts.add_row("mean entropy", f"{summary.mean_entropy:.3f} nats")
    console.print(facts)
    settings = Table(title="settings", show_header=False, title_justify="left")
    for name, value in summary.settings.items():
        settings.add_row(name, value)
    console.print(settings)
    if summary.samples:
        samples = Table("image", "crop", "the teacher's label", title="sample labels")
        for image, crop, label in summary.samples:
            samples.add_row(image, str(crop), str(label))
        console.print(samples)
