"""A store of 10,000 images: a page costs what is on the page, a filter reads labels alone."""

import time

import pytest

from benchmarks.viewing import build
from fkd.store import LabelStore
from fkd.viewing import server as server_module
from fkd.viewing.browser import Browser
from fkd.viewing.filters import FilterConfig
from fkd.viewing.page import PageConfig
from fkd.viewing.server import PageServer, View

NUMBER = 10_000


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return build(tmp_path_factory.mktemp("large"), NUMBER, num_crops=2)


def test_only_the_images_of_a_page_are_read(large, monkeypatch):
    store, images = large
    rows = []
    read = LabelStore.read

    def counted(self, wanted, *more):
        rows.extend(wanted)
        return read(self, wanted, *more)

    monkeypatch.setattr(LabelStore, "read", counted)
    monkeypatch.setattr(server_module, "_PATIENCE", 60)
    began, images.num_read = time.monotonic(), 0
    view = View(FilterConfig(), "random", PageConfig(num_images=5))
    with PageServer(Browser(store, images), view) as server:
        assert server.answer("")[0] == 200
        assert images.num_read == 5
        assert len(rows) < 200  # of the page, and of the sample of the summary
        assert server.answer("sort=high_entropy&num_images=5&disagrees=true&page=100")[0] == 200
        assert images.num_read == 10
        assert NUMBER <= len(rows) < NUMBER + 200
        assert server.answer("sort=low_entropy&class_name=class+7&num_images=5")[0] == 200
        assert images.num_read == 15
        assert len(rows) < NUMBER + 400
    assert time.monotonic() - began < 60  # takes less than a second on a quiet machine
