"""A page as a reader without a browser sees it, and names that want to break out of it."""

from html.parser import HTMLParser

# File names cannot hold a slash; `</style>` and `</script>` are put into other places.
MARKUP = (
    "<img src=x onerror=alert(1)>",
    '"><script>alert(2)<!--',
    "'onmouseover='alert(3)",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt;&amp;",
    "javascript:alert(4)",
)
WITH_SLASH = ("</style><script>alert(5)</script>", "</title><svg onload=alert(6)>")
TURNED = "photo\u202egnp.exe\u2066"  # characters that turn text around
SHOWN_TURNED = "photo\\u202egnp.exe\\u2066"


class Page(HTMLParser):
    """Elements with their attributes, and all text outside of scripts and styles."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.texts, self.tables = [], [], []
        self._skipped, self._in_cell = None, False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._skipped = tag
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("th", "td"):
            self.tables[-1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag):
        if tag == self._skipped:
            self._skipped = None
        if tag in ("th", "td"):
            self._in_cell = False

    def handle_data(self, data):
        if self._skipped:
            return
        self.texts.append(data.strip())
        if self._in_cell:
            self.tables[-1][-1][-1] += data.strip()

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def count(self, tag) -> int:
        return sum(name == tag for name, _ in self.elements)

    def require_harmless(self) -> None:
        """One script, no handlers, nothing loaded."""
        assert self.count("script") == 1
        assert self.count("link") == self.count("iframe") == self.count("object") == 0
        for tag, attributes in self.elements:
            assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
            for name in ("src", "href", "action", "srcset", "xlink:href"):
                value = attributes.get(name, "data:")
                assert value.startswith("data:image/") or value == "data:" or value[:1] == "/"
