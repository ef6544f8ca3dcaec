"""The errors that `fkd` raises for a user to solve.

    FKDError
    |-- ConfigError         an option or a field has a value that cannot work
    |-- ImageError          an image cannot be read or decoded
    |-- CropMismatch        an image is not the one that was labeled
    |-- TeacherError        a teacher cannot be loaded or gives no usable output
    |   `-- NotFinite           its output is NaN or infinite (in models/single_teacher.py)
    |-- RunError            a run folder cannot be used or continued
    |-- ExportError         a network cannot be exported, or answers differently then
    |-- RemoteError         a server, bucket or hub refuses, does not answer, or sends other bytes
    |   `-- NotThere        a file, repository or revision does not exist there
    `-- StoreError          a label store cannot be used
        |-- FormatError     not a label store, or malformed
        |   `-- NewerFormat     made by a newer fkd
        |-- DamagedStore    bytes differ from their checksum
        |-- StoreLocked     another process is writing
        |-- StoreFull       the disk is full
        |-- StoreMismatch   made with other settings, classes or images
        `-- MissingLabel    no label for that image

A message is one or two sentences: the rule, the actual value, the way out. The command line prints
it and ends with exit code 2; nothing else in the package prints.
"""

import unicodedata


class FKDError(Exception):
    """Base of every error a user can cause.

    Example:
        >>> from fkd import FKDError, ImagesConfig, open_source
        >>> try:
        ...     open_source(ImagesConfig(root="fotos"))
        ... except FKDError as error:
        ...     print(error)
        images.root: fotos does not exist; give a folder of images
    """


class ConfigError(FKDError, ValueError):
    """An option or a field has a value that cannot work; the message names both."""


class ImageError(FKDError):
    """An image cannot be read or decoded; the message names the file."""


class CropMismatch(FKDError):
    """An image on disk is not the one that was labeled: its bytes or its size differ."""


class TeacherError(FKDError):
    """A teacher cannot be loaded, or its output is not finite."""


class RunError(FKDError):
    """A run folder is missing something, or was made with other settings."""


class ExportError(FKDError):
    """A network cannot be exported, or gives other outputs once it is; nothing was written."""


class RemoteError(FKDError):
    """A server, a bucket or the hub refuses, does not answer, or sends other bytes."""


class NotThere(RemoteError):
    """A file, repository or revision does not exist there, or may not be seen."""


class StoreError(FKDError):
    """Base of the errors of label stores."""


class FormatError(StoreError):
    """The folder is not a label store, or a malformed one."""


class NewerFormat(FormatError):
    """The store was made by a newer `fkd`; it is not damaged."""


class DamagedStore(StoreError):
    """Bytes of a store differ from their checksum; the message names the file."""


class StoreLocked(StoreError):
    """Another process is writing to the store."""


class StoreFull(StoreError):
    """The disk is full; committed shards are complete, and the same command continues."""


class StoreMismatch(StoreError):
    """The store was made with other settings, classes or images; the message names them."""


class MissingLabel(StoreError):
    """The store has no label for that image."""


def reason_of(error: BaseException, length: int = 200) -> str:
    """What another library's error says, as part of a sentence: its first line, or its kind."""
    return str(error).strip().partition("\n")[0][:length].rstrip(".! ") or type(error).__name__


def escape_controls(text: str) -> str:
    """The text with control characters, line breaks among them, spelled out, such as `\\x1b`.

    Names of files, classes and teachers are data: in a message, on a terminal or in a page they
    must not move the cursor, recolor the screen or begin a line of their own.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or unicodedata.category(character) == "Zs"
        else character.encode("unicode_escape").decode()
        for character in text
    )
