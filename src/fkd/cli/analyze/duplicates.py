"""`fkd analyze duplicates`: images that occur twice, within and across sets."""

from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from fkd.analysis.duplicates import (
    DuplicateConfig,
    DuplicateReport,
    StoreImages,
    duplicate_numbers,
    find_duplicates,
)
from fkd.analysis.duplicates_figure import draw_duplicates
from fkd.analysis.figures import prepare_folder, require_matplotlib, save_analysis
from fkd.cli.analyze.bars import task_bars
from fkd.cli.console import make_console, print_remark, print_warning
from fkd.cli.verbs import VERBS
from fkd.data.sources import ImagesConfig, ImageSource, open_source, refuse_same_folder, remarks_of
from fkd.data.subset import labeled_part
from fkd.errors import ConfigError
from fkd.store import LabelStore
from fkd.userfiles import home_path


def duplicates(
    *,
    images: ImagesConfig | None = None,
    val: ImagesConfig | None = None,
    store: str | None = None,
    near: bool = True,
    min_similarity: float = 0.985,
    max_pairs: int = 10_000,
    top: int = 10,
    num_workers: int = 2,
    out: str = "analysis",
) -> None:
    """Find images that occur twice: the same file content, or thumbnails that look the same.

    Those whose copies are in different classes come first, then those that are in both --images
    and --val. All pairs of images are compared, and none that is so similar is missed.

    Args:
        images: the images; without them, the checksums of the store are compared.
        val: further images, such as those that accuracy is measured on.
        store: a label store of the images; it has their checksums, so --near false reads no image.
        near: also find images that look the same; each is decoded once for that.
        min_similarity: least correlation of thumbnails (32 x 32 pixels, color) that look the same.
            Copies of another size, compression or brightness are above 0.985; of 5.8 million pairs
            of different photographs of clothes, none is.
        max_pairs: pairs of images that look the same to list in the numbers.
        top: duplicates to print.
        num_workers: threads that read and decode images.
        out: folder of duplicates.svg, duplicates.png and duplicates.json.
    """
    refuse_same_folder(out, images, val)
    config = DuplicateConfig(
        near=near and images is not None,
        min_similarity=min_similarity,
        max_pairs=max_pairs,
        num_workers=num_workers,
    )
    opened = None if store is None else LabelStore.open(home_path(store))
    console = make_console()
    parts = open_parts(images, val, opened, console)
    run_duplicates(parts, config, opened, console, out=home_path(out), top=top)


def open_parts(
    images: ImagesConfig | None,
    val: ImagesConfig | None,
    store: LabelStore | None,
    console: Console,
) -> dict[str, ImageSource]:
    """The images to compare, by the names of the options.

    Raises:
        ConfigError: neither images nor a store are given.
    """
    parts: dict[str, ImageSource] = {}
    if images is not None:
        source = open_source(images)
        parts["images"] = source if store is None else labeled_part(source, store)
    elif store is not None:
        parts["images"] = StoreImages(store)
        print_remark(console, "without --images.root, only the checksums of files are compared")
    else:
        raise ConfigError(
            "analyze duplicates needs --images.root, or a --store, e.g. "
            f"{VERBS['analyze duplicates'].example} (fkd analyze duplicates --help)"
        )
    if val is not None:
        parts["val"] = open_source(val)
    for source in parts.values():
        for remark in remarks_of(source):
            print_remark(console, remark)
    return parts


def run_duplicates(
    parts: dict[str, ImageSource],
    config: DuplicateConfig,
    store: LabelStore | None,
    console: Console,
    *,
    out: Path,
    top: int = 10,
) -> None:
    """Find, write and print the duplicates among these images."""
    require_matplotlib()
    prepare_folder(out)
    with task_bars(console) as begin:
        report = find_duplicates(parts, config, store=store, begin=begin)
    figure = draw_duplicates(report, parts)
    files = save_analysis(out, "duplicates", figure, duplicate_numbers(report))
    _print(report, config, console, top)
    console.print(f"figure    {files[0]}, {files[1].name}; numbers {files[2].name}")


def _print(report: DuplicateReport, config: DuplicateConfig, console: Console, top: int) -> None:
    counts = " and ".join(f"{count:,} in {name}" for name, count in report.num_images.items())
    identical = sum(duplicate.identical for duplicate in report.duplicates)
    near = f", pairs that look the same: {report.num_similar:,}" if config.near else ""
    console.print(f"images    {counts}; groups of the same content: {identical:,}{near}")
    _print_shortfalls(report, console)
    for text, number in {
        "in different classes": sum(d.classes_differ for d in report.duplicates),
        "in both images and val": sum(d.across for d in report.duplicates),
    }.items():
        if number:
            print_warning(console, f"duplicates {text}: {number:,}")
    if report.duplicates:
        console.print(_table(report, top), soft_wrap=False)


def _print_shortfalls(report: DuplicateReport, console: Console) -> None:
    if report.unreadable:
        first = report.unreadable[0]
        print_remark(console, f"{len(report.unreadable):,} images cannot be read, such as {first}")
    if report.num_blank:
        print_remark(
            console, f"{report.num_blank:,} images show nothing; only their content was compared"
        )
    if not report.complete:
        print_warning(
            console,
            f"the search ended at {report.num_similar:,} pairs that look the same; a larger "
            "--min_similarity finds fewer",
        )


def _table(report: DuplicateReport, top: int) -> Table:
    shown = report.duplicates[:top]
    table = Table(
        "similarity", "in", Column("image", overflow="fold"), "class", title_justify="left"
    )
    if len(shown) < len(report.duplicates):
        table.title = f"the first {len(shown)} of {len(report.duplicates):,} duplicates"
    for duplicate in shown:
        said = "identical" if duplicate.identical else f"{duplicate.similarity:.4f}"
        for i, image in enumerate(duplicate.images[:3]):
            class_name = "-" if image.class_name is None else image.class_name
            table.add_row(said if i == 0 else "", image.part, image.name, class_name)
        if len(duplicate.images) > 3:
            table.add_row("", "", f"and {len(duplicate.images) - 3:,} more", "")
        table.add_section()
    return table
