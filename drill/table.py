"""What a drill tried and found, as the table of `docs/reliability.md`."""

import re
from collections.abc import Iterable
from typing import Any

from drill.plugin import FAILINGS

BEGIN, END = "<!-- drill: begin -->", "<!-- drill: end -->"


def newest(results: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last line of each test."""
    return list({line["test"]: line for line in results}.values())


def summarize(results: Iterable[dict[str, Any]]) -> dict[tuple[str, str], dict[str, int]]:
    """By goal and thing tried: how often it was tried, and what was found.

    Returns:
        (goal, what) -> "tried" and, for each of `FAILINGS`, the tests that failed in this way.
    """
    summary: dict[tuple[str, str], dict[str, int]] = {}
    for line in newest(results):
        for what, count in line["tried"].items():
            row = summary.setdefault(
                (line["goal"], what), {"tried": 0, **dict.fromkeys(FAILINGS, 0)}
            )
            row["tried"] += count
            row[line["failing"]] += line["outcome"] != "passed"
    return dict(sorted(summary.items(), key=lambda item: (int(item[0][0][1:]), item[0][1])))


def markdown(results: list[dict[str, Any]]) -> str:
    """The table, and a line of totals."""
    summary = summarize(results)
    lines = [
        "| goal | what was tried | times | lost | silent | untyped |",
        "|---|---|---|---|---|---|",
    ]
    for (goal, what), row in summary.items():
        found = " | ".join(f"{row[failing]}" for failing in FAILINGS)
        lines.append(f"| {goal} | {what} | {row['tried']:,} | {found} |")
    return "\n".join([*lines, "", totals(results)])


def totals(results: list[dict[str, Any]]) -> str:
    """For example "1,234 tries in 56 tests: 0 lost, 0 silent, 0 untyped"."""
    rows = summarize(results).values()
    tried = sum(row["tried"] for row in rows)
    found = ", ".join(f"{sum(row[failing] for row in rows)} {failing}" for failing in FAILINGS)
    return f"{tried:,} tries in {len(newest(results)):,} tests: {found}"


def replace_table(page: str, table: str) -> str:
    """The page with another table between its two marks."""
    found = re.search(f"{BEGIN}.*?{END}", page, re.DOTALL)
    if found is None:
        raise ValueError(f"the page has no {BEGIN} ... {END}")
    return f"{page[: found.start()]}{BEGIN}\n{table}\n{END}{page[found.end() :]}"
