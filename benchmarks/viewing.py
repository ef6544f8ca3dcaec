"""`python -m benchmarks.viewing`: how long pages of a store of 10,000 images take.

    open       find the images of a store, join both
    page       the first page: 12 images and 96 crops, as HTML
    filter     the first filter by labels, which reads all of them
    filtered   another page of the same order
    browser    from the address to the loaded page, served, in headless Chromium

The images are 100 small photographs' worth of noise that take turns; labels are generated. What a
command adds is the import of torch and torchvision. Prints one line each: seconds, median of n.
"""

import io
import shutil
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from benchmarks.stores import write_store
from fkd.store import ImageFacts, LabelStore
from fkd.viewing.browser import Browser
from fkd.viewing.filters import FilterConfig, Sort
from fkd.viewing.page import PageConfig, render_selection
from fkd.viewing.server import PageServer, View

_DISTINCT, _PER_CLASS = 100, 100
_REPEATS = 5


class GeneratedImages:
    """Images without files: `number` keys in class folders, and few distinct contents.

    Attributes:
        num_read: images read so far.
    """

    root = "generated"

    def __init__(self, number: int, side: int = 200) -> None:
        self.num_read = 0
        self.class_names: list[str] | None = [f"class {c}" for c in range(-(-number // _PER_CLASS))]
        self._keys = sorted(
            f"class {i // _PER_CLASS}/{i % _PER_CLASS:03}.jpg".encode() for i in range(number)
        )
        self._classes = [key.decode().partition("/")[0] for key in self._keys]
        self._contents = [_jpeg(seed, side) for seed in range(min(number, _DISTINCT))]

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, i: int) -> bytes:
        return self._keys[i]

    def label(self, i: int) -> int:
        return int(self._classes[i].removeprefix("class "))

    def name(self, i: int) -> str:
        return self._keys[i].decode()

    def read(self, i: int) -> bytes:
        self.num_read += 1
        return self._contents[i % len(self._contents)]

    def facts(self, side: int = 200) -> ImageFacts:
        """What a store knows of them."""
        taken = np.arange(len(self)) % len(self._contents)
        return ImageFacts(
            crc32=np.array([zlib.crc32(data) for data in self._contents], np.uint32)[taken],
            num_bytes=np.array([len(data) for data in self._contents], np.uint64)[taken],
            size=np.full((len(self), 2), side, np.uint32),
            status=np.zeros(len(self), np.uint8),
        )


def build(folder: Path, number: int, num_crops: int) -> tuple[LabelStore, GeneratedImages]:
    """A store of generated labels and its images."""
    images = GeneratedImages(number)
    keys = [images.key(i) for i in range(len(images))]
    return write_store(folder / "store", (keys, images.facts()), num_crops), images


def _jpeg(seed: int, side: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((side, side)).save(file, format="JPEG")
    return file.getvalue()


def _seconds(work: Callable[[], object], repeats: int = _REPEATS) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return median(times)


def _page(browser: Browser, sort: Sort, number: int = 1) -> str:
    selection = browser.select(FilterConfig(), sort, number=number)
    return render_selection(browser, selection, PageConfig())


def _open_in_chromium(browser: Browser) -> float | None:
    """Seconds from the address to the loaded page; None without Chromium or playwright."""
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if executable is None:
        return None
    view = View(FilterConfig(), "random", PageConfig())
    with PageServer(browser, view) as server, sync_playwright() as driver:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        chromium = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = chromium.new_page()
        seconds = _seconds(lambda: page.goto(server.address))
        chromium.close()
        server.shutdown()
    return seconds


def main() -> None:
    """Measure and print."""
    number, num_crops = int(sys.argv[1]) if sys.argv[1:] else 10_000, 50
    with tempfile.TemporaryDirectory() as folder:
        store, images = build(Path(folder), number, num_crops)
        print(f"{number:,} images, {num_crops} crops of each, {store.num_bytes:,} bytes")
        print(f"open      {_seconds(lambda: Browser(store, images)):.3f} s")
        browser = Browser(store, images)
        print(f"page      {_seconds(lambda: _page(browser, 'random')):.3f} s")
        first = _seconds(lambda: Browser(store, images).select(FilterConfig(), "high_entropy"))
        print(f"filter    {first:.3f} s")
        _page(browser, "high_entropy")
        print(f"filtered  {_seconds(lambda: _page(browser, 'high_entropy', 9)):.3f} s")
        in_browser = _open_in_chromium(browser)
        print("browser   " + ("no Chromium" if in_browser is None else f"{in_browser:.3f} s"))


if __name__ == "__main__":
    main()
