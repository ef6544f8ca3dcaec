"""What may be meant by a line of a list whose path is no file: how to write it instead."""

import os
import unicodedata
from collections.abc import Callable

_SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}


def advise(path: str, folder: str, *, is_first: bool, is_table: bool) -> str:
    """The end of a message on a path that is no file.

    Args:
        path: as the list has it.
        folder: of the list.
        is_first: whether it is in the first line.
        is_table: whether the list has columns (.csv, .tsv).
    """

    def is_file(text: str) -> bool:
        return os.path.isfile(os.path.join(folder, text.strip().strip("\"'")))

    if os.path.isdir(os.path.join(folder, path)):
        return "it is a folder; give that folder as images.root, or list its files"
    divided = _divided(path, is_file, is_first)
    if divided is not None:
        return (
            f"{divided} divides its columns, as it seems; columns are divided by commas in a file "
            "called .csv and by tabs in one called .tsv"
        )
    if path.startswith("#"):
        return "a list has no comments; remove it"
    if is_file(path):
        return "write it without quotation marks"
    if "\\" in path and is_file(path.replace("\\", "/")):
        return "write / between folders"
    if any(is_file(unicodedata.normalize(form, path)) for form in ("NFC", "NFD")):
        return (
            "a file of this name is there whose accents are coded otherwise (one has letters with "
            "accents, the other letters and accents); write the list from the names of the files"
        )
    words = path.split()
    if not is_table and any(is_file(" ".join(words[:n])) for n in range(1, len(words))):
        return "put a tab before a class of several words"
    if os.path.isfile(path):
        return "paths begin at the folder of the list, not at the current one; correct them"
    if is_first and is_table:
        return (
            "correct the list, whose paths begin at its folder, or if this is a header, "
            "images.image_column names the column of the paths"
        )
    if is_first:
        return (
            "correct the list, whose paths begin at its folder, or if this is a header, remove it "
            "or make the list a table (.csv)"
        )
    return "correct the list, whose paths begin at its folder"


def _divided(path: str, is_file: Callable[[str], bool], is_first: bool) -> str | None:
    """What divides a cell that should be a path, by name; None where nothing does."""
    for separator, name in _SEPARATORS.items():
        first, found, _ = path.partition(separator)
        if found and (is_file(first) or (is_first and first.strip().isidentifier())):
            return name
    return None
