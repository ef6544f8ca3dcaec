"""The pages in a browser: nothing is loaded, nothing is wider than a phone, names stay text."""

import shutil
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from fkd.data.sources import ImagesConfig, open_source
from fkd.viewing.browser import Browser
from fkd.viewing.filters import FilterConfig
from fkd.viewing.page import PageConfig, render_page
from fkd.viewing.report import render_report
from fkd.viewing.server import PageServer, View
from tests.viewing.folders import lines_of, write_run
from tests.viewing.pages import MARKUP, SHOWN_TURNED, TURNED
from tests.viewing.test_report import hostile_config, write_hostile_runs

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        # Tests may run as root, for whom Chromium has no sandbox; the pages are our own.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Seen:
    """What happened while a page was open."""

    page: object
    problems: list = field(default_factory=list)
    requests: list = field(default_factory=list)

    def require_quiet(self, address):
        """No errors, dialogs or violations of the page's policy, and no request but for itself."""
        assert self.problems == []
        assert {url for url in self.requests if not url.startswith("data:")} == {address}


@contextmanager
def opened(chromium, address, **options):
    context = chromium.new_context(**({"viewport": PHONE} | options))
    page = context.new_page()
    seen = Seen(page)
    page.on("console", lambda message: seen.problems.append(message.text))
    page.on("pageerror", lambda error: seen.problems.append(str(error)))
    page.on("dialog", lambda dialog: (seen.problems.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: seen.requests.append(request.url))
    page.goto(address)
    yield seen
    context.close()


def written(folder, text) -> str:
    path = folder / "page.html"
    path.write_text(text, encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def hostile_store(tmp_path_factory, make_images, make_store):
    """Images in class folders whose names want to break out of the page."""
    folder = tmp_path_factory.mktemp("hostile")
    classes = sorted((*MARKUP, TURNED))
    root = make_images(folder / "images", classes=classes, per_class=1)
    source = open_source(ImagesConfig(root=str(root), format="classes"))
    return make_store(folder / "store", source, class_names=classes), source


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Of several runs, seeds among them."""
    folder = tmp_path_factory.mktemp("report")
    runs = [write_run(folder / f"m4-seed{s}", lines_of((20.0 + s, 30)), seed=s) for s in range(3)]
    runs.append(write_run(folder / "m1", epochs=9, crops_per_image=1, finished=False))
    return written(folder, render_report(list(map(str, runs))))


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile-report")
    return written(folder, render_report(write_hostile_runs(folder), hostile_config(folder)))


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory, hostile_store):
    return written(tmp_path_factory.mktemp("page"), render_page(*hostile_store, sort="name"))


@pytest.fixture(params=["report", "hostile_report", "hostile_page"])
def address(request):
    return request.getfixturevalue(request.param)


def colors(page) -> tuple[int, int]:
    """Brightness of the page and of its text, 0 to 765."""
    script = """() => ["backgroundColor", "color"].map((name) =>
      getComputedStyle(document.body)[name].match(/\\d+/g).slice(0, 3).reduce((a, b) => +a + +b, 0))
    """
    return tuple(map(int, page.evaluate(script)))


def test_pages_are_quiet_and_as_narrow_as_a_phone(chromium, address):
    with opened(chromium, address) as seen:
        seen.page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true })")
        width = seen.page.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"]
        seen.require_quiet(address)


def test_dark_and_light_follow_the_reader(chromium, address):
    with opened(chromium, address, color_scheme="light") as seen:
        paper, ink = colors(seen.page)
        assert paper > 600 > 300 > ink
    with opened(chromium, address, color_scheme="dark") as seen:
        paper, ink = colors(seen.page)
        assert paper < 150 < 450 < ink
        if "report" in address:
            stroke = "getComputedStyle(document.querySelector('.curve')).stroke"
            assert seen.page.evaluate(stroke) == "rgb(125, 180, 236)"
        seen.require_quiet(address)


def test_tables_are_read_without_javascript(chromium, report):
    with opened(chromium, report, java_script_enabled=False) as seen:
        table = seen.page.locator("table").first
        assert table.locator("tbody tr").count() == 4
        assert table.locator("tbody tr").nth(3).inner_text().split()[:4] == [
            *("m1", "(not", "finished)"),
            "40.00",
        ]
        assert seen.page.locator("svg[role=img]").first.is_visible()
        seen.require_quiet(report)


def test_a_table_is_sorted_by_its_heads(chromium, report):
    with opened(chromium, report) as seen:
        heads = seen.page.locator("table").first.locator("thead th")
        head = heads.filter(has_text="best val top-1")
        column = heads.all_inner_texts().index("best val top-1")

        def values():
            rows = seen.page.locator("table").first.locator("tbody tr").all()
            return [float(row.locator("th, td").nth(column).inner_text()) for row in rows]

        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == "descending"
        assert values() == [50.0, 30.0, 30.0, 30.0]
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == "ascending"
        assert values() == [30.0, 30.0, 30.0, 50.0]
        seen.require_quiet(report)


def test_names_of_runs_with_markup_are_text(chromium, hostile_report):
    with opened(chromium, hostile_report) as seen:
        rows = seen.page.locator("table").first.locator("tbody th")
        assert rows.all_inner_texts() == [*MARKUP, SHOWN_TURNED, "settings", "metrics"]
        assert seen.page.locator("img, iframe, object, link").count() == 0
        assert seen.page.locator("script").count() == 1
        seen.require_quiet(hostile_report)


def require_names_are_text(page):
    shown = [SHOWN_TURNED if name == TURNED else name for name in sorted((*MARKUP, TURNED))]
    assert page.locator("article h2").all_inner_texts() == [f"{name}/0.png" for name in shown]
    bars = page.locator(".bars li span:first-child").all_inner_texts()
    assert set(bars) <= {*shown, "all others"}
    assert page.locator("script").count() == 1
    broken = "[...document.images].filter((i) => !i.src.startsWith('data:image/jpeg')).length"
    assert page.evaluate(broken) == 0


def test_names_of_images_and_classes_with_markup_are_text(chromium, hostile_page):
    with opened(chromium, hostile_page) as seen:
        require_names_are_text(seen.page)
        seen.require_quiet(hostile_page)


def test_a_script_that_got_into_the_page_would_not_run(chromium, report, tmp_path):
    with open(report.removeprefix("file://"), encoding="utf-8") as file:
        text = file.read()
    injected = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    address = written(tmp_path, text.replace("<main>", f"{injected}<main>"))
    with opened(chromium, address) as seen:
        assert len(seen.problems) >= 2
        assert all("Content Security Policy" in problem for problem in seen.problems)


def test_served_pages_are_quiet_and_their_form_works(chromium, hostile_store, monkeypatch):
    monkeypatch.setattr("fkd.viewing.server._PATIENCE", 60)
    view = View(FilterConfig(), "name", PageConfig(crops_per_image=2))
    with PageServer(Browser(*hostile_store), view) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with opened(chromium, server.address) as seen:
            require_names_are_text(seen.page)
            assert seen.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
            seen.page.get_by_label("true class", exact=True).fill(MARKUP[0])
            seen.page.get_by_label("order").select_option("high_entropy")
            seen.page.get_by_role("button", name="show").click()
            assert seen.page.locator("article h2").all_inner_texts() == [f"{MARKUP[0]}/0.png"]
            assert seen.page.get_by_label("true class", exact=True).input_value() == MARKUP[0]
            assert seen.problems == []
            hosts = (server.address, "data:")
            assert all(url.startswith(hosts) for url in seen.requests)
        server.shutdown()
