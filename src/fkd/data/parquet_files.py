"""Which Parquet files make a data set: those of a split, complete, with the same columns."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fkd.data.layout import describe_unused_split, usual_split_in
from fkd.data.listing import Folder
from fkd.errors import ConfigError
from fkd.store.canonical import printable
from fkd.userfiles import os_reason

try:
    import pyarrow as pa
    from pyarrow import parquet as pq
except ImportError:  # ParquetSource says what to install
    pa = None

# What pyarrow raises for damaged files; its own errors are some of these.
DAMAGE = (OSError, ValueError, KeyError, IndexError, OverflowError, NotImplementedError)

_SPLIT_IN_PATH = re.compile(
    r"(?:^|[-_./])(train|training|trainval|validation|valid|val|dev|test|testing|eval)"
    r"(?=[-_./\d])",
    re.IGNORECASE,
)
# NUMBER-of-TOTAL, also 1of5 and 0001_of_0005.
_OF_A_SET = re.compile(
    r"(?P<stem>.*?)(?P<number>\d+)[-_. ]?of[-_. ]?(?P<total>\d+)(?!.*\d[-_. ]?of[-_. ]?\d)",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"(?P<stem>.*?)(?P<number>\d+)\.(?:parquet|tar)")


@dataclass(frozen=True)
class Footer:
    """A Parquet file, by what its end says of it.

    Attributes:
        file: its path below the root, with slashes.
        path: where it is.
        schema: its columns and their types (pyarrow).
        num_rows: images in it.
    """

    file: str
    path: str
    schema: Any
    num_rows: int

    @property
    def name(self) -> str:
        """The path, printable."""
        return printable(os.fsencode(self.path))

    def column(self, column: str) -> Any:
        """All values of a column, as pyarrow reads them; raises one of `DAMAGE` or its errors."""
        return pq.read_table(self.path, columns=[column], use_threads=False).column(0)


def choose_files(
    root: str, tree: Folder | None, split: str, extension: str = ".parquet"
) -> tuple[list[str], list[str]]:
    """Paths of the files to read, below the root, in the order of their keys; and remarks.

    Args:
        root: a folder, or one file.
        tree: what is below the folder; None for a file.
        split: which files, where their names tell.
        extension: .parquet or .tar, what the files are.

    Raises:
        ConfigError: there are none, or none of the split; one of a numbered set is missing.
    """
    if tree is None:
        file = os.path.basename(root)
        part = _OF_A_SET.match(file)
        alone = part is not None and int(part["total"]) > 1
        return [file], [f"{root} is one file of {int(part['total'])}"] if part and alone else []
    paths = tree.table_paths() if extension == ".parquet" else tree.archive_paths()
    files = [os.fsdecode(path) for path in paths]
    if not files:
        raise ConfigError(
            f"images.root: no {extension} file in {root}; give another file or folder"
        )
    splits = {file: _SPLIT_IN_PATH.findall(file)[-1:] for file in files}
    is_divided = any(splits.values())
    chosen = [file for file in files if splits[file] == [split]] if is_divided else files
    if not is_divided:
        _refuse_mixed_splits(root, files)
    if not chosen:
        known = ", ".join(sorted({name for names in splits.values() for name in names}))
        raise ConfigError(f"images.split: {root} has no {split!r}, only {known}; choose one")
    _require_complete(root, chosen)
    # In a key "/" follows the file, so the order must see that.
    chosen.sort(key=lambda file: os.fsencode(file + "/"))
    unassigned = [file for file in files if not splits[file] and file not in chosen]
    return chosen, [
        *_describe_gaps(chosen),
        *([] if is_divided else describe_unused_split(root, split)),
        *_describe_left_out(unassigned, "of no split"),
    ]


def read_footers(folder: str, files: Sequence[str]) -> list[Footer]:
    """The footers of files below a folder.

    Raises:
        ConfigError: one cannot be read, or they hold no rows.
    """
    footers = [_read_footer(file, os.path.join(folder, file)) for file in files]
    if not any(footer.num_rows for footer in footers):
        more = f" and {len(footers) - 1} more files have" if len(footers) > 1 else " has"
        raise ConfigError(
            f"images.root: {footers[0].name}{more} no rows, hence no images; give other files"
        )
    return footers


def keep_images(
    footers: Sequence[Footer], image_column: str, label_column: str | None
) -> tuple[list[Footer], list[str]]:
    """The files that hold images, and a remark on those that hold something else.

    Raises:
        ConfigError: no file has the columns, or only some; the images are not encoded files.
    """
    kept = [footer for footer in footers if image_column in footer.schema.names]
    _require_columns(kept or footers, image_column, label_column)
    others = [footer for footer in footers if image_column not in footer.schema.names]
    for footer in others:
        if _OF_A_SET.match(footer.file):
            _refuse_differing(footer, kept[0])
    return kept, _describe_left_out([footer.file for footer in others], "without images")


def holds_images(root: str, tree: Folder, image_column: str) -> bool:
    """Whether one of the Parquet files of a tree has a column of encoded images of that name."""
    if pa is None:
        return False
    for path in tree.table_paths():
        try:
            footer = _read_footer(os.fsdecode(path), os.path.join(root, os.fsdecode(path)))
        except ConfigError:
            continue
        if image_column in footer.schema.names and _is_encoded(footer.schema, image_column):
            return True
    return False


def damage_reason(error: Exception) -> str:
    """What is wrong with a file, as part of a sentence, of one of the errors in `DAMAGE`."""
    reason = os_reason(error) if isinstance(error, OSError) else str(error)
    return " ".join(reason.split())


def _read_footer(file: str, path: str) -> Footer:
    name = printable(os.fsencode(path))
    try:
        if os.path.getsize(path) == 0:
            raise ConfigError(f"images.root: {name} is empty (zero bytes); restore or remove it")
        with pq.ParquetFile(path) as opened:
            groups = [opened.metadata.row_group(g) for g in range(opened.num_row_groups)]
            rows = [group.num_rows for group in groups]
            if min(rows, default=0) < 0 or sum(rows) != opened.metadata.num_rows:
                raise ValueError("its numbers of rows contradict each other")
            return Footer(file, path, opened.schema_arrow, sum(rows))
    except ConfigError:
        raise
    except (*DAMAGE, pa.ArrowException) as error:
        raise ConfigError(
            f"images.root: {name} cannot be read as Parquet ({damage_reason(error)}); restore or "
            "remove it"
        ) from error


def _refuse_mixed_splits(root: str, files: Sequence[str]) -> None:
    """Refuse files of which some are a split that is spelled otherwise: TestSet.parquet."""
    kinds = {
        file: usual_split_in(file.removesuffix(".parquet").removesuffix(".tar")) for file in files
    }
    named = [file for file, kind in kinds.items() if kind is not None]
    if named and len(set(kinds.values())) > 1:
        other = next(file for file in files if kinds[file] != kinds[named[0]])
        raise ConfigError(
            f"images.root: {named[0]} and {other} in {root} look like different splits of one data "
            "set; give one file or folder, or rename them to train-..., test-..."
        )


def _require_complete(root: str, files: Sequence[str]) -> None:
    """Refuse a set of files called NUMBER-of-TOTAL that is not whole, or is there twice."""
    sets: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for file in files:
        part = _OF_A_SET.match(file)
        if part:
            sets[part["stem"]].append((int(part["number"]), int(part["total"]), file))
    for parts in sets.values():
        _refuse_doubled(root, sorted(parts))
        numbers, total = {number for number, _, _ in parts}, parts[0][1]
        first = 1 if 0 not in numbers and total in numbers else 0
        missing = sorted(set(range(first, first + total)) - numbers) if total < 10**6 else []
        if missing:
            raise ConfigError(
                f"images.root: {len(missing)} of the {total} files of {min(parts)[2]} are missing "
                f"in {root} (first: number {missing[0]}); restore them, or give single files"
            )


def _refuse_doubled(root: str, parts: Sequence[tuple[int, int, str]]) -> None:
    for (number, total, file), (next_number, next_total, next_file) in pairwise(parts):
        if number == next_number or total != next_total:
            raise ConfigError(
                f"images.root: {file} and {next_file} in {root} are parts of two versions of one "
                "data set; keep one of them"
            )


def _describe_gaps(files: Sequence[str]) -> Iterator[str]:
    """Remarks on files that are only numbered, 0.parquet, 1.parquet ..., where a number is left
    out."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for file in files:
        part = _NUMBERED.fullmatch(file)
        if part and not _OF_A_SET.match(file):
            numbers[part["stem"]].append(int(part["number"]))
    for stem, found in numbers.items():
        found.sort()
        gaps = [a + 1 for a, b in pairwise(found) if b > a + 1]
        if gaps and found[0] in (0, 1):
            yield f"the Parquet files {stem}N have no number {gaps[0]}; is one missing?"


def _describe_left_out(files: Sequence[str], kind: str) -> list[str]:
    if not files:
        return []
    more = ", ..." if len(files) > 1 else ""
    return [f"{len(files)} Parquet files {kind} are left out ({min(files)}{more})"]


def _require_columns(footers: Sequence[Footer], image: str, label: str | None) -> None:
    for field, column in (("image_column", image), ("label_column", label)):
        for footer in footers:
            if column is not None and footer.schema.names.count(column) > 1:
                raise ConfigError(
                    f"images.{field}: {footer.name} has several columns {column!r}; rename one"
                )
        have = [column is None or column in footer.schema.names for footer in footers]
        if not any(have):
            there = ", ".join(footers[0].schema.names)
            hint = " (or null for images without labels)" if field == "label_column" else ""
            raise ConfigError(
                f"images.{field}: {footers[0].name} has no column {column!r}, only {there}; "
                f"name one{hint}"
            )
        if not all(have):
            _refuse_differing(footers[have.index(False)], footers[have.index(True)])
    for footer in footers:
        if not _is_encoded(footer.schema, image):
            raise ConfigError(
                f"images.image_column: column {image!r} of {footer.name} holds "
                f"{footer.schema.field(image).type}, not encoded images; name a column of bytes or "
                "of structs {bytes, path}"
            )


def _refuse_differing(footer: Footer, other: Footer) -> None:
    raise ConfigError(
        f"images.root: {footer.name} and {other.name} have different columns; "
        "keep one data set in one folder"
    )


def _is_encoded(schema: Any, column: str) -> bool:
    """Whether a column holds encoded images: bytes, or structs with such a field `bytes`."""
    if schema.names.count(column) > 1:
        return False
    kind = schema.field(column).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
