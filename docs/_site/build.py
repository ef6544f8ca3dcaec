"""Builds the documentation site: the pages of docs/ as they are, commands and public names.

    python docs/_site/build.py OUT [html|linkcheck]

Pages keep the links that they have on a code host. They are copied as docs/PAGE -> PAGE and
everything else by its own path (recipes/README.md), with links adapted; what a page links to is
copied along. Every warning of Sphinx is an error: a page that no list names, a link that leads
nowhere, a docstring that cannot be read.
"""

import contextlib
import io
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from fkd import __all__ as PUBLIC
from fkd.cli import main as fkd
from fkd.cli.verbs import VERBS

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "docs" / "_site"
FIRST_PAGE = (HERE / "index.md").read_text(encoding="utf-8")
BESIDE_DOCS = ("CHANGELOG.md", "CONTRIBUTING.md", "recipes/README.md", "benchmarks/README.md")
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")

GROUPS = {
    "Label stores": "LabelStore verify_store open_store",
    "Labeling": "label verify TeacherModule TeacherConfig load_teachers ImagesConfig open_source",
    "Training in your own loop": "MultiCropDataset collate_crops SoftTargets SoftTargetLoss "
    "soft_cross_entropy",
    "Training": "train TrainConfig",
    "Evaluation": "evaluate EvalConfig probe ProbeConfig",
    "Crops": "CropConfig AugmentConfig sample_crops replay",
}
"""Public names by what they are for; all others are codecs and errors."""


def build(out: Path, builder: str = "html") -> int:
    """Write the site to `out`/html; returns Sphinx's exit code, which warnings make 1."""
    from sphinx.cmd.build import build_main

    source = out / "source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(HERE, source, ignore=shutil.ignore_patterns("build.py", "__pycache__"))
    (source / "index.md").write_text(FIRST_PAGE, encoding="utf-8")
    for page in pages():
        copy_page(page, source)
    write_commands(source / "commands")
    write_api(source / "api")
    options = ["-W", "--keep-going", "-q", "-b", builder, "-d", str(out / "doctrees")]
    return int(build_main([*options, str(source), str(out / builder)]))


def pages() -> Iterator[Path]:
    """The Markdown files that people read, below the root."""
    for path in sorted((ROOT / "docs").rglob("*.md")):
        if not path.is_relative_to(HERE):
            yield path.relative_to(ROOT)
    yield from map(Path, BESIDE_DOCS)


def place_of(file: Path) -> Path:
    """Where a file of the project is in the site."""
    return file.relative_to("docs") if file.parts[0] == "docs" else file


def copy_page(page: Path, source: Path) -> None:
    """Copy a page with its links adapted, and the files that it links to."""
    place = place_of(page)

    def adapt(link: re.Match[str]) -> str:
        before, target, after = link.groups()
        file = Path(os.path.normpath(page.parent / target))
        if file == Path("README.md"):
            file = Path("docs/index.md")  # the first page of the site
        elif file.suffix != ".md" and (ROOT / file).is_file():
            copied = source / place_of(file)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, copied)
        elif (ROOT / file).is_dir():
            return f"{before}{'../' * len(place.parent.parts)}index.md{after}"
        return f"{before}{os.path.relpath(place_of(file), place.parent)}{after}"

    text = (ROOT / page).read_text(encoding="utf-8")
    (source / place).parent.mkdir(parents=True, exist_ok=True)
    (source / place).write_text(_LINK.sub(adapt, text), encoding="utf-8")


def write_commands(folder: Path) -> None:
    """A page for each verb, with what `fkd VERB --help` prints."""
    folder.mkdir(parents=True)
    names = {verb: verb.replace(" ", "-") for verb in VERBS}
    for verb, name in names.items():
        text = f"# fkd {verb}\n\n```text\n{help_of(verb)}```\n"
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
    rows = "".join(f"| [`{v}`]({n}.md) | {VERBS[v].summary} |\n" for v, n in names.items())
    tree = "\n".join(names.values())
    (folder / "index.md").write_text(
        f"# Commands\n\n| `fkd ...` | |\n|---|---|\n{rows}\n"
        f"```{{toctree}}\n:hidden:\n\n{tree}\n```\n",
        encoding="utf-8",
    )


def help_of(verb: str) -> str:
    """What `fkd VERB --help` shows: a backspace in it takes the character before away."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        fkd([*verb.split(), "--help"])
    return re.sub(".\b", "", printed.getvalue())


def write_api(folder: Path) -> None:
    """A page for each group of public names, from their docstrings."""
    folder.mkdir(parents=True)
    left = set(PUBLIC)
    groups = {title: [n for n in names.split() if n in left] for title, names in GROUPS.items()}
    grouped = {name for names in groups.values() for name in names}
    groups["Codecs and errors"] = sorted(left - grouped)
    for title, names in groups.items():
        text = f"# {title}\n\n```{{eval-rst}}\n{''.join(map(_directive, names))}```\n"
        (folder / f"{_file_of(title)}.md").write_text(text, encoding="utf-8")
    listed = "\n".join(map(_file_of, groups))
    (folder / "index.md").write_text(
        "# Python\n\nThe names of `fkd` that stay; everything else may move.\n\n"
        f"```{{toctree}}\n\n{listed}\n```\n",
        encoding="utf-8",
    )


def _directive(name: str) -> str:
    kind = "autoclass" if name[0].isupper() else "autofunction"
    members = "   :members:\n" if kind == "autoclass" else ""
    return f".. {kind}:: fkd.{name}\n{members}\n"


def _file_of(title: str) -> str:
    return title.lower().replace(" ", "-")


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1]), *sys.argv[2:]))
