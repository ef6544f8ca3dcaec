"""Looking into a label store: a summary for the terminal and a page for the browser."""

from fkd.viewing.page import PageConfig, render_page
from fkd.viewing.summary import StoreSummary, summarize

__all__ = ["PageConfig", "StoreSummary", "render_page", "summarize"]
