"""Figures and numbers of an analysis: NAME.svg, NAME.png and NAME.json in one folder.

The same numbers give the same bytes: SVG files hold no dates and no random names.
"""

import io
import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fkd.errors import ConfigError
from fkd.userfiles import os_reason

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f", "#f0e442")
"""Colors of series, which stay apart for most color-blind readers and in print."""

_DPI = 160
_STYLE: Any = {
    "svg.hashsalt": "fkd",  # else names inside an SVG are random
    "svg.fonttype": "none",  # text stays text
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}

# Class names are in all scripts, and matplotlib's own font has few; the first of these that there
# is in each system has many more.
_FURTHER_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Malgun Gothic",
    "Arial Unicode MS",
    "Noto Sans Devanagari",
)


@contextmanager
def figure_style() -> Iterator[None]:
    """Around everything that draws: the look of all figures, which leaves that of others alone.

    Example:
        >>> @figure_style()
        ... def draw_nothing():
        ...     return new_figure(4.0, 3.0)

    Raises:
        ConfigError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib import font_manager, rc_context

    installed = set(font_manager.get_font_names())
    families = ["DejaVu Sans", *(font for font in _FURTHER_FONTS if font in installed)]
    with rc_context(_STYLE | {"font.family": families}):
        yield


def new_figure(width: float, height: float) -> Any:
    """A matplotlib figure of that size, inches, that needs no display; in a `figure_style`."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def require_matplotlib() -> None:
    """Say so before anything is computed.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401 - whether it is there
    except ModuleNotFoundError as error:
        raise ConfigError(
            "figures need matplotlib; install it with: pip install 'fkd[analysis]'"
        ) from error


def prepare_folder(out: Path) -> None:
    """Make the folder of an analysis if it is missing, before anything is computed.

    Raises:
        ConfigError: nothing can be written there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ConfigError(
            f"out: {out} cannot be written: {os_reason(error)}; give another folder"
        ) from error


def save_analysis(out: Path, name: str, figure: Any, numbers: Mapping[str, Any]) -> list[Path]:
    """Write a figure as NAME.svg and NAME.png, and its numbers as NAME.json, each as a whole.

    Args:
        out: a folder, made if it is missing.
        name: of the analysis.
        figure: from `new_figure`.
        numbers: everything that the figure shows, in JSON's types.

    Returns:
        The three files.

    Raises:
        ConfigError: they cannot be written.
    """
    files = [out / f"{name}.svg", out / f"{name}.png", out / f"{name}.json"]
    with figure_style(), warnings.catch_warnings():
        # An SVG file keeps such text, and a browser has fonts for it.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        for file, metadata in zip(files[:2], ({"Date": None}, {"Software": None}), strict=True):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=file.suffix[1:], dpi=_DPI, metadata=metadata)
            _write(file, buffer.getvalue())
    _write(files[2], f"{json.dumps(numbers, indent=1, ensure_ascii=False)}\n".encode())
    return files


def _write(file: Path, content: bytes) -> None:
    temporary = file.with_name(f"{file.name}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(file)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise ConfigError(
            f"out: {file} cannot be written: {os_reason(error)}; give another folder"
        ) from error


def plain(text: str) -> str:
    """A name of the user's as matplotlib shows it: dollar signs would begin a formula."""
    return text.replace("$", r"\$")
