"""What can be checked of documents by machine: links, names, tables, words and the example."""

import contextlib
import importlib
import io
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from fkd.cli import VERBS, main
from fkd.methods import METHODS
from fkd.store import LabelStore

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "fkd"
FOLDERS = ("docs", "recipes", "benchmarks", "src")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(p for f in FOLDERS for p in (ROOT / f).rglob("*.md"))])

# Metaphors and archaisms that the documents and the code once had; see docs/glossary.md instead.
FORBIDDEN = re.compile(
    r"for ever\b|\battic|\bcellar|\brests\b|politely|listens in silence|the whole story"
    r"|teacher's (?:own )?word\b|disks that lie|for the curious|came to life|asked online"
    r"|(?:this|every|whole) room\b|for good\b|for everybody|or lament|a heap\b|a film\b"
    r"|\bas ever\b",
    re.IGNORECASE,
)

OPTION = r"--[a-z]\w*(?:\.\w+)*(?:\.\*)?"  # --crops.scale; --calibration.* for all below it


# Groups whose members are called as a user likes.
NAMED_BY_USERS = {"--models", "--other_stores", "--sets", "--stores"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def first_cells(section: str) -> list[str]:
    """The code spans in the first column of a table, without its head."""
    rows = re.findall(r"^\| ([^|]*) \|", section, re.MULTILINE)[1:]
    return [span for row in rows for span in re.findall(r"`([^`]+)`", row)]


def section_of(name: str, heading: str) -> str:
    """The text below a heading of the second level."""
    return text_of(name).partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def anchors_of(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_relative_link_leads_somewhere(path):
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    for link in links:
        if link.startswith(("https://", "http://")):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_module_that_a_document_names_exists(path):
    """Names with a folder start at the package or the repository, or beside the document."""
    text = path.read_text(encoding="utf-8")
    spans = re.findall(r"`([\w/]+\.py)`", text)
    drawn = re.findall(r"^ {4}[ |]*([\w/]+\.py) ", text, re.MULTILINE)  # in figures
    for name in [*spans, *drawn]:
        if "/" in name:
            assert any((folder / name).is_file() for folder in (PACKAGE, ROOT, path.parent)), name
        else:
            folders = [ROOT / "tests"] if name.startswith("test_") else [path.parent, PACKAGE]
            assert any(any(folder.rglob(name)) for folder in folders), name


def test_every_name_of_the_equation_table_exists():
    names = re.findall(r"`((?:crops|labels|data)\.[\w.]+)", text_of("docs/methods.md"))
    assert len(names) > 10
    for name in names:
        module, _, attribute = f"fkd.{name}".rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_the_glossary_has_one_line_a_term_and_names_what_exists():
    text = text_of("docs/glossary.md")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    rows = [row for row in rows if row[0] != "term"]
    assert len(rows) > 60
    assert [term for term, n in Counter(row[0] for row in rows).items() if n > 1] == []
    assert all(len(row) == 4 for row in rows), [row[0] for row in rows if len(row) != 4]
    code = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    words = set(re.findall(r"\w+", code))
    for row in rows:
        for span in re.findall(r"`([^`]+)`", row[2]):
            if not (ROOT / span).exists():
                assert set(re.findall(r"\w+", span)) <= words, span


def test_words_are_plain():
    found = []
    others = [*PACKAGE.rglob("*.py"), *(ROOT / "recipes").rglob("*.yaml"), ROOT / "pyproject.toml"]
    for path in [*DOCUMENTS, *sorted(others)]:
        text = re.sub(r"[\s#|]+", " ", path.read_text(encoding="utf-8"))  # phrases cross lines
        found += [f"{name_of(path)}: {phrase}" for phrase in FORBIDDEN.findall(text)]
    assert not found, "\n".join(found)


def test_the_readme_lists_every_verb_and_every_method():
    assert sorted(first_cells(section_of("README.md", "On the command line"))) == sorted(VERBS)
    assert sorted(first_cells(section_of("README.md", "Methods"))) == sorted(METHODS)
    table = section_of("docs/architecture.md", "Methods")
    assert set(re.findall(r"^\| ([\w-]+) \|", table, re.MULTILINE)) == {"method", *METHODS}


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """The options of each verb, as its --help lists them."""
    found = {}
    for verb in VERBS:
        page = io.StringIO()
        with contextlib.redirect_stdout(page), pytest.raises(SystemExit):
            main([*verb.split(), "--help"])
        found[verb] = {*re.findall(r"--[a-z][\w.]*", page.getvalue()), "--help"}
    return found


def is_known(option: str, known: set[str]) -> bool:
    """Whether an option is listed; those of a part that may be absent are behind PART.help."""
    group = option.partition(".")[0]
    if group in NAMED_BY_USERS and group in known:
        return True
    if option.endswith(".*"):
        return any(other.startswith(option[:-1]) for other in known)
    return option in known or f"{group}.help" in known


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_option_that_a_document_names_exists(path, options):
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    words = "|".join(verb for verb in VERBS if " " in verb)
    for verb, rest in re.findall(rf"\bfkd ({words}|[a-z-]+)([^`\n#]*)", text):
        for option in re.findall(rf" ({OPTION})", rest):
            assert is_known(option, options.get(verb, set())), f"fkd {verb} {option}"
    if "python -m benchmarks" not in text:  # benchmarks have options of their own
        every = set().union(*options.values())
        for option in re.findall(rf"`({OPTION})", text):
            assert is_known(option, every), option


def test_recipes_are_linked_each_from_the_row_it_reproduces():
    text = text_of("recipes/README.md")
    recipes = sorted((ROOT / "recipes" / "imagenet").glob("*.yaml"))
    for recipe in recipes:
        assert text.count(f"(imagenet/{recipe.name})") == 1, recipe.name
        published = re.search(r"\d\d\.\d+(?= %)", recipe.read_text(encoding="utf-8"))
        line = next(line for line in text.splitlines() if f"(imagenet/{recipe.name})" in line)
        if recipe.name.startswith("extra-"):  # beyond the paper
            continue
        assert published.group() in line, recipe.name


def test_the_loop_of_the_readme_runs(image_folder, label_store, monkeypatch):
    """Smaller in crop size, batch and passes, else as printed; every pass sees other crops."""
    blocks = re.findall(r"```python\n(.*?)```", text_of("README.md"), re.DOTALL)
    assert len(blocks) == 1
    replacements = {
        '"labels/pets-effl2-ms5"': repr(str(label_store.path)),
        '"photos/train"': repr(str(image_folder)),
        "crops_per_image=4": "crops_per_image=2, size=16",
        "batch_size=64": "batch_size=4",
        "range(25)": "range(3)",
    }
    code = blocks[0]
    for printed, small in replacements.items():
        assert code.count(printed) == 1, printed
        code = code.replace(printed, small)
    read, seen = LabelStore.read, []

    def record(self, rows, crops=None):
        seen.extend((int(row), int(n)) for row, ns in zip(rows, crops, strict=True) for n in ns)
        return read(self, rows, crops)

    monkeypatch.setattr(LabelStore, "read", record)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 4))
    before = model[1].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    exec(compile(code, "README.md", "exec"), {"model": model, "optimizer": optimizer})
    assert not torch.equal(model[1].weight, before)
    assert len(set(seen)) == len(seen) == 15 * 6  # three passes of 2 crops: all 6 of 15 images


def test_every_hazard_has_a_test_that_exists():
    rows = re.findall(r"^\| (\d+) \|.*\| ([^|]+) \|$", text_of("docs/reliability.md"), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 39))
    for number, tests in rows:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", tests)
        assert named, number
        for file, test in named:
            assert f"def {test}(" in text_of(f"tests/{file}"), (number, test)
