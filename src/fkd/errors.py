"""Everything that `fkd` raises on purpose.

    FKDError
    |-- ConfigError         an option or a field has a value that cannot work
    |-- ImageError          an image cannot be read or decoded
    |-- CropMismatch        an image is not the one that was labeled
    |-- TeacherError        a teacher cannot be loaded or gives no usable output
    |-- RunError            a run folder cannot be used or continued
    `-- StoreError          a label store cannot be used
        |-- FormatError     not a label store, or malformed
        |   `-- NewerFormat     made by a newer fkd
        |-- DamagedStore    bytes differ from their checksum
        |-- StoreLocked     another process is writing
        |-- StoreFull       the disk is full
        |-- StoreMismatch   made with other settings, classes or images
        `-- MissingLabel    no label for that image

A message is one sentence or two: the rule, the value found, the way out. The command line prints it
and ends with exit code 2; nothing else in the package prints.
"""


class FKDError(Exception):
    """Base of every error a user can cause."""


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


class StoreError(FKDError):
    """Base of everything that can be wrong with a label store."""


class FormatError(StoreError):
    """The folder is not a label store, or a malformed one."""


class NewerFormat(FormatError):
    """The store was made by a newer `fkd`; nothing is wrong with it, and nothing to repair."""


class DamagedStore(StoreError):
    """Bytes of a store differ from their checksum; the message names the file."""


class StoreLocked(StoreError):
    """Another process is writing to the store."""


class StoreFull(StoreError):
    """The disk ran out of space; committed shards are whole and the same command goes on."""


class StoreMismatch(StoreError):
    """The store was made with other settings, classes or images; the message names them."""


class MissingLabel(StoreError):
    """The store has no label for that image."""
