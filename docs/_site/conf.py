"""Sphinx's settings for the documentation site; `make docs` builds it."""

from typing import Any

from numpy.typing import ArrayLike
from sphinx.util.typing import stringify_annotation

from fkd import AugmentConfig, CropConfig, __version__

project = "fkd"
author = "the authors of fkd"
copyright = "the authors of fkd, Apache-2.0"
release = __version__
html_title = "fkd"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "index"
source_suffix = {".md": "markdown"}

# Anchors as code hosts make them, so that the same links work here and there.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

# Docstrings name code in single backticks.
default_role = "code"
highlight_language = "none"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
maximum_signature_line_length = 80

# Nothing is loaded from elsewhere: no fonts, scripts or images.
html_theme = "furo"
html_show_sourcelink = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"top_of_page_buttons": []}

# For `make docs-links`, which asks the network.
linkcheck_timeout = 20
linkcheck_workers = 4


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", shorten_signature)


def shorten_signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: Any
) -> tuple[str | None, Any]:
    """A signature as a reader wants it: aliases by their names, defaults of dataclasses short.

    Without this `<factory>`, which is no Python, would keep Sphinx from reading a signature at all.
    """
    if signature is not None:
        signature = signature.replace("<factory>", "...")
        for long, short in SHORTER.items():
            signature = signature.replace(long, short)
    return signature, returns


SHORTER = {
    stringify_annotation(ArrayLike, "smart", short_literals=False): "ArrayLike",
    repr(AugmentConfig()): "AugmentConfig()",
    repr(CropConfig()): "CropConfig()",
}
