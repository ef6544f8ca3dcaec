"""Tables of a page: texts, and the numbers among them, which are set to the right and sorted."""

from dataclasses import dataclass

ABSENT = "-"  # where there is no value
_EMPTY = ("", ABSENT, "null")
_LONG = 40  # characters of a cell that is set in several lines


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, and the number that it is sorted by, if it is one."""

    text: str
    number: float | None = None

    @property
    def is_long(self) -> bool:
        """Whether it is set in several lines."""
        return len(self.text) > _LONG


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        caption: above it.
        columns: their names.
        rows: cells; the first of each row is its heading.
        sortable: whether a reader may order the rows.
        note: below it, on what is left out.
        folded: whether it is shown only when it is asked for.
    """

    caption: str
    columns: list[str]
    rows: list[list[Cell]]
    sortable: bool = False
    note: str = ""
    folded: bool = False

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers alone, which are set to the right."""
        columns = [[row[i] for row in self.rows] for i in range(len(self.columns))]
        return [
            any(cell.number is not None for cell in column)
            and all(cell.number is not None or cell.text in _EMPTY for cell in column)
            for column in columns
        ]
