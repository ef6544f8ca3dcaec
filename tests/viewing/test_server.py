"""The server of `fkd view`: what it answers, and to whom."""

import html
import http.client
import re
import shutil
import threading
from dataclasses import replace

import pytest

from fkd.data.sources import ImagesConfig, open_source
from fkd.errors import ConfigError, DamagedStore
from fkd.viewing import server as server_module
from fkd.viewing.browser import Browser
from fkd.viewing.filters import FilterConfig
from fkd.viewing.page import PageConfig
from fkd.viewing.server import LOOPBACK, PageServer, View, as_given, read_view
from tests.viewing.pages import Page

DEFAULT = View(FilterConfig(), "random", PageConfig(num_images=4, crops_per_image=2))
KNOWN = {"class_name": ["ant", "tabby, cat"], "teacher_class": ["ant"]}


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """On a busy machine, labels of a few images may take longer than a user would wait."""
    monkeypatch.setattr(server_module, "_PATIENCE", 60)


@pytest.fixture
def server(label_store, image_source):
    with PageServer(Browser(label_store, image_source), DEFAULT) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server, path="/", method="GET", host=None):
    connection = http.client.HTTPConnection(LOOPBACK, server.server_port, timeout=20)
    host = host or f"{LOOPBACK}:{server.server_port}"
    connection.request(method, path, headers={"Host": host})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer, text


def test_pages_follow_their_links_through_all_images(server):
    path, seen = "/?sort=name&num_images=4", []
    while path is not None:
        answer, text = get(server, path)
        assert answer.status == 200
        page = Page(text)
        page.require_harmless()
        seen += [a["aria-label"] for tag, a in page.elements if tag == "svg"]
        following = re.search(r'href="([^"]+)">next<', text)
        path = following and html.unescape(following[1])
    assert seen == [f"{name}/{i}.png" for name in ("ant", "bee", "cat") for i in range(5)]


def test_the_form_filters_and_keeps_what_was_given(server):
    answer, text = get(server, "/?class_name=bee&sort=high_entropy&min_entropy=0.1&disagrees=")
    assert answer.status == 200
    page = Page(text)
    fields = {a["name"]: a for tag, a in page.elements if tag == "input" and "name" in a}
    assert fields["class_name"]["value"] == "bee"
    assert fields["min_entropy"]["value"] == "0.1"
    selected = [a["value"] for tag, a in page.elements if tag == "option" and "selected" in a]
    assert selected == ["high_entropy"]
    shown = [a["aria-label"] for tag, a in page.elements if tag == "svg"]
    assert shown
    assert all(name.startswith("bee/") for name in shown)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("class_name=zebra", "there is no class 'zebra'"),
        ("min_entropy=much", "'much' is no number"),
        ("min_entropy=2&max_entropy=1", "no image is between"),
        ("max_top_probability=nan", "must lie in [0, 1]"),
        ("sort=best", "sort: 'best' is none of"),
        ("page=99", "no page 99"),
        ("page=-1", "no whole number above 0"),
        ("num_images=0", "no whole number above 0"),
        ("class_name=%3Cscript%3Ealert(1)%3C/script%3E", "<script>alert(1)</script>"),
    ],
)
def test_mistakes_are_told_on_the_page(server, query, said):
    answer, text = get(server, f"/?{query}")
    assert answer.status == 400
    page = Page(text)
    page.require_harmless()
    assert said in page.text
    assert page.count("form") == 1


def test_only_get_of_the_page_from_this_machine(server):
    assert server.server_address[0] == LOOPBACK
    for host in ("evil.example", f"evil.example:{server.server_port}", LOOPBACK, "localhost:x"):
        assert get(server, host=host)[0].status == 403
    for host in (f"localhost:{server.server_port}", "localhost:9000"):  # the end of a tunnel
        assert get(server, host=host)[0].status == 200
    for path in ("/../../etc/passwd", "/page.html", "//"):
        assert get(server, path)[0].status in (404, 200)
        assert "root:" not in get(server, path)[1]
    assert get(server, method="POST")[0].status == 501
    assert get(server, "/favicon.ico")[0].status == 204


def test_the_page_may_not_be_kept_and_has_a_policy(server):
    answer, text = get(server)
    assert answer.getheader("Cache-Control") == "no-store"
    assert answer.getheader("X-Content-Type-Options") == "nosniff"
    policy = [a["content"] for t, a in Page(text).elements if "Policy" in a.get("http-equiv", "")]
    assert "default-src 'none'" in policy[0]
    assert "form-action 'self'" in policy[0]


def test_a_changed_image_is_named_and_other_pages_are_shown(label_store, image_folder, tmp_path):
    shutil.copytree(image_folder, tmp_path / "images")
    shutil.copy(image_folder / "ant/0.png", tmp_path / "images/bee/1.png")
    source = open_source(ImagesConfig(root=str(tmp_path / "images")))
    with PageServer(Browser(label_store, source), DEFAULT) as server:
        status, text = server.answer("sort=name&num_images=5&page=2")
        assert status == 400
        assert "bee/1.png is not the file that was labeled" in Page(text).text
        assert server.answer("sort=name&num_images=5&page=1")[0] == 200


def test_a_damaged_store_is_told_without_a_page(server, monkeypatch):
    def fail(*args, **options):
        raise DamagedStore("shard 3 is \x1b damaged")

    monkeypatch.setattr("fkd.viewing.browser.summarize", fail)
    answer, text = get(server)
    assert (answer.status, text) == (500, "shard 3 is \\x1b damaged")


def test_while_labels_are_read_the_page_says_how_far(label_store, image_source, monkeypatch):
    begun, may_end = threading.Event(), threading.Event()
    read = server_module.Browser.statistics

    def slow(self, advance):
        begun.set()
        may_end.wait(20)
        return read(self, advance)

    monkeypatch.setattr(server_module, "_PATIENCE", 0.01)
    monkeypatch.setattr(server_module.Browser, "statistics", slow)
    server = PageServer(Browser(label_store, image_source), DEFAULT)
    try:
        _, text = server.answer("sort=high_entropy")
        assert begun.is_set()
        page = Page(text)
        assert page.count("progress") == 1
        assert page.count("article") == 0
        assert any(a.get("http-equiv") == "refresh" for _, a in page.elements)
        may_end.set()
        server._reader.join(20)
        _, text = server.answer("sort=high_entropy")
        assert Page(text).count("article") == 4
    finally:
        server.server_close()


def test_a_damaged_store_is_told_and_tried_again(label_store, image_source, monkeypatch):
    def fail(self, advance):
        raise DamagedStore("shard 3 is damaged")

    monkeypatch.setattr(server_module.Browser, "statistics", fail)
    with PageServer(Browser(label_store, image_source), DEFAULT) as server:
        said = [server.answer("sort=high_entropy") for _ in range(4)]
    assert [s for s, text in said if "shard 3 is damaged" in Page(text).text] == [400, 400]


def test_a_view_becomes_fields_and_is_read_back():
    chosen = FilterConfig(class_name=["tabby, cat"], min_entropy=0.5, disagrees=True)
    view = View(chosen, "low_probability", PageConfig(num_images=7))
    assert read_view(as_given(view), DEFAULT, KNOWN).filter == chosen
    several = read_view({"class_name": "ant, bee"}, DEFAULT, KNOWN)
    assert several.filter.class_name == ["ant", "bee"]
    assert read_view({}, view, KNOWN) == view
    assert read_view({"num_images": "9999"}, view, KNOWN).page.num_images == 200
    assert read_view({"page": "3"}, view, KNOWN).page == replace(view.page, number=3)


def test_a_taken_port_is_named(server, label_store, image_source):
    with pytest.raises(ConfigError, match=f"port: {server.server_port} cannot be used"):
        PageServer(server.browser, DEFAULT, server.server_port)
    with pytest.raises(ConfigError, match="port: 70000 cannot be used"):
        PageServer(server.browser, DEFAULT, 70000)
