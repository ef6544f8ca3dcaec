"""`fkd report`: training runs as one HTML page."""

from fkd.cli.console import format_size, make_console
from fkd.cli.pages import require_place, write_page
from fkd.userfiles import home_path
from fkd.viewing.report import GENERATOR, ReportConfig, render_report


def report(
    runs: list[str] | str,
    *,
    out: str = "report.html",
    title: str = "Training runs",
    notes: str = "",
    figures: list[str] = [],  # noqa: B006 - never changed, and the parser reads its default
    overwrite: bool = False,
) -> None:
    """Write one HTML page about training runs: results, curves, settings, teachers, figures.

    Runs that differ only by seed are also shown as means and standard deviations. Runs that are not
    finished are shown as far as they are. The page loads nothing: send it, print it, keep it.

    Args:
        runs: folders that `fkd train` wrote.
        out: the page's file.
        title: of the page.
        notes: text below the title; an empty line begins a paragraph.
        figures: files to show: SVG, PNG or JPEG of `fkd analyze`, JSON of `fkd eval` as tables.
        overwrite: replace a file at that place that is not such a page.
    """
    page = home_path(out)
    require_place(page, GENERATOR, overwrite=overwrite)
    folders = [runs] if isinstance(runs, str) else runs
    text = render_report(folders, ReportConfig(title=title, notes=notes, figures=figures))
    write_page(page, text)
    make_console().print(f"{page} ({format_size(len(text.encode()))}): open it in a browser")
