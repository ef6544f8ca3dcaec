"""The documentation site: built with every warning as an error, whole, and of nothing from afar."""

import re
import warnings
from pathlib import Path

import pytest

from docs._site import build as site
from fkd import __all__ as PUBLIC
from fkd.cli.verbs import VERBS


def build(out):
    """Sphinx and its extensions warn of each other's ways; their own errors come back as 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return site.build(out)


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The built site."""
    out = tmp_path_factory.mktemp("site")
    assert build(out) == 0
    return out / "html"


def test_every_page_is_there_and_listed_once(html):
    index = (html / "index.html").read_text(encoding="utf-8")
    for page in site.pages():
        place = site.place_of(page).with_suffix(".html")
        assert (html / place).is_file(), page
        assert f'href="{place}"' in index, page


def test_every_verb_and_every_public_name_has_its_place(html):
    for verb in VERBS:
        text = (html / "commands" / f"{verb.replace(' ', '-')}.html").read_text(encoding="utf-8")
        assert "--" in text, verb
    text = "".join(path.read_text(encoding="utf-8") for path in (html / "api").glob("*.html"))
    for name in PUBLIC:
        assert f'id="fkd.{name}"' in text, name


def test_nothing_is_loaded_from_elsewhere(html):
    for path in html.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe|source)[^>]+src="([^"]+)"', text)
        loaded += re.findall(r'<link[^>]+rel="stylesheet"[^>]+href="([^"]+)"', text)
        assert not [address for address in loaded if "//" in address], path


@pytest.mark.parametrize(
    "text",
    [
        "# Page\n\n[nowhere](nowhere.md)\n",
        "# Page\n\n[no such heading](at-scale.md#nothing)\n",
        "# Page\n\nfine, but no list of pages names it\n",
        "# Page\n\n![](missing.png)\n",
    ],
    ids=["page", "heading", "orphan", "image"],
)
def test_a_broken_page_is_an_error(text, tmp_path, monkeypatch, capfd):
    """On two pages and the settings of the site."""
    root, kept = tmp_path / "project", Path("docs/at-scale.md")
    (root / "docs").mkdir(parents=True)
    (root / kept).write_text((site.ROOT / kept).read_text(encoding="utf-8").replace("](", "] ("))
    (root / "docs" / "page.md").write_text(text)
    monkeypatch.setattr(site, "ROOT", root)
    monkeypatch.setattr(site, "BESIDE_DOCS", ())
    monkeypatch.setattr(site, "write_commands", lambda folder: None)
    monkeypatch.setattr(site, "write_api", lambda folder: None)
    listed = "at-scale" if "list" in text else "at-scale\npage"
    monkeypatch.setattr(site, "FIRST_PAGE", f"# Site\n\n```{{toctree}}\n\n{listed}\n```\n")
    assert build(tmp_path / "out") == 1
    assert "page.md" in capfd.readouterr().err


# What Sphinx makes of docstrings and signatures that it cannot read, without a warning.
UNREAD = {
    "the text before a colon taken for a type": '<dt class="field-odd">Type',
    "a letter taken for the number of a list": "<ol",
    "a signature that is no Python": "factory&gt;",
    "the name of a module in a type": "~",
    "a type written out": "_SupportsArray",
}


@pytest.mark.parametrize("what", UNREAD)
def test_the_reference_of_public_names_is_read_as_it_is_meant(what, html):
    for path in sorted((html / "api").glob("*.html")):
        text = path.read_text(encoding="utf-8")
        article = text[text.index("<article") : text.index("</article>")]
        assert UNREAD[what] not in article, path.name
