"""Files of weights: told by their first bytes, bounded by their size, read without running code.

Read are safetensors, what `torch.save` writes today (a zip archive) and wrote before torch 1.6. All
else is refused for what it is: a web page that was saved in the place of weights, the pointer of
git-lfs, another library's format. The name of a file says nothing: `.pth.tar` is no tar archive.
"""

import os
import pickle
import stat
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fkd.errors import ConfigError, reason_of
from fkd.models.archives import ARCHIVE_ERRORS, check_archive
from fkd.models.pickles import INERT, Inert, NeedsCode, Refused, check_pickle
from fkd.userfiles import os_reason

_ZIP = b"PK\x03\x04"
_EMPTY_ZIP = b"PK\x05\x06"
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # torch.save before 1.6: a magic number
_LEGACY_PICKLES = 5  # magic number, version, machine, the weights, keys of the storages
_HEADER_LENGTH = 8  # of a safetensors file, in front of its header
_LARGEST_HEADER = 100_000_000  # what its readers accept
_SNIFFED = 1024
_TAR_MAGIC = slice(257, 262)

# How files begin that are found in the place of weights.
_OTHERS = (
    (b"version https://git-lfs", "is a pointer of git-lfs, not the weights; run `git lfs pull`"),
    (b"\x1f\x8b", "is packed by gzip; unpack it first"),
    (b"\xfd7zXZ", "is packed by xz; unpack it first"),
    (b"BZh", "is packed by bzip2; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is packed by zstd; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive; unpack it first"),
    (b"Rar!", "is a rar archive; unpack it first"),
    (b"\x89HDF", "is an HDF5 file, as Keras writes; save the weights from torch"),
    (b"\x93NUMPY", "is an array of numpy; save a model's state_dict by torch"),
    (b"GGUF", "is a GGUF file; save a model's state_dict by torch"),
    (b"\x89PNG", "is an image, not weights"),
    (b"\xff\xd8\xff", "is an image, not weights"),
    (b"%PDF", "is a PDF document, not weights"),
)
_AGAIN = "get it again"


def read_weight_file(path: Path) -> Any:
    """What a file of weights holds: tensors by name, or whatever they lie in; on the CPU.

    Raises:
        ConfigError: it is missing, not whole, something else than weights, or would run code, or
            ask for more memory than its size explains.
    """
    start, num_bytes = _begin(path)
    if _is_safetensors(start):
        return _read_safetensors(path, start, num_bytes)
    if start.startswith((_ZIP, _EMPTY_ZIP)):
        _check_archive(path)
    else:
        _refuse_others(path, start)
    return read_torch(path)


def read_torch(path: Path) -> Any:
    """What `torch.save` wrote, by its weights-only reader; on the CPU.

    Raises:
        ConfigError: it cannot be read, or as for `load_torch`.
    """
    try:
        with open(path, "rb") as file:
            return load_torch(file, path)
    except OSError as error:
        raise ConfigError(f"checkpoint: {path} cannot be read: {os_reason(error)}") from error


def load_torch(file: BinaryIO, path: Path) -> Any:
    """The same from an open file; `path` is what messages call it.

    Objects that training scripts keep beside weights (`pickles.INERT`) are left out.

    Raises:
        ConfigError: it is damaged, would run code, or ask for more than its size explains.
        OSError: the disk fails.
    """
    try:
        check_torch_file(file, os.fstat(file.fileno()).st_size)
        file.seek(0)
        # Not by its path, whose suffix torch would believe.
        with torch.serialization.safe_globals([(Inert, name) for name in sorted(INERT)]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ConfigError(f"checkpoint: {path} needs more memory than is free") from error
    except Refused as error:
        if isinstance(error, NeedsCode):
            raise _needs_code(path, error) from error
        raise ConfigError(
            f"checkpoint: {path} is damaged, or made to harm: {error}; {_AGAIN}"
        ) from error
    except pickle.UnpicklingError as error:
        raise _needs_code(path, error) from error
    except Exception as error:  # a file cut short, and hostile bytes: nearly anything
        raise ConfigError(
            f"checkpoint: {path} is damaged, or of a kind that torch does not read "
            f"({reason_of(error)}); {_AGAIN}"
        ) from error


def _needs_code(path: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"checkpoint: {path} cannot be read without running code from it ({reason_of(error)}); "
        "save its state_dict alone, best as .safetensors"
    )


def check_torch_file(file: BinaryIO, num_bytes: int) -> None:
    """Refuse what torch would not survive: contents that are much larger than their file.

    Args:
        file: at its beginning, in any form of torch.save.
        num_bytes: its size.

    Raises:
        Refused: the file is damaged, or asks for too much.
        OSError: it cannot be read.
    """
    start = file.read(len(_LEGACY))
    file.seek(0)
    if start.startswith(_ZIP):
        check_archive(file, num_bytes)
        return
    bounded = _Bounded(file)
    for _ in range(_LEGACY_PICKLES if start == _LEGACY else 1):
        check_pickle(bounded, num_bytes)


class _Bounded:
    """A file that never allocates more than it has: a length in a pickle may be any number."""

    _PIECE = 1 << 20

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, n: int = -1) -> bytes:
        """At most n bytes, piece by piece."""
        pieces = []
        while n > 0 and (piece := self._file.read(min(n, self._PIECE))):
            pieces.append(piece)
            n -= len(piece)
        return b"".join(pieces)

    def readline(self) -> bytes:
        """Up to the end of a line: a name, which is short."""
        return self._file.readline(self._PIECE)

    def tell(self) -> int:
        """Position in the file."""
        return self._file.tell()


def _begin(path: Path) -> tuple[bytes, int]:
    """The first bytes of a regular file, and its size."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"checkpoint: {path} is no regular file; give a file of weights")
        if status.st_size == 0:
            raise ConfigError(f"checkpoint: {path} is empty; {_AGAIN}")
        with open(path, "rb") as file:
            return file.read(_SNIFFED), status.st_size
    except OSError as error:
        raise ConfigError(f"checkpoint: {path} cannot be read: {os_reason(error)}") from error


def _is_safetensors(start: bytes) -> bool:
    length = int.from_bytes(start[:_HEADER_LENGTH], "little")
    return start[_HEADER_LENGTH : _HEADER_LENGTH + 1] == b"{" and length <= _LARGEST_HEADER


def _read_safetensors(path: Path, start: bytes, num_bytes: int) -> dict[str, Tensor]:
    header = int.from_bytes(start[:_HEADER_LENGTH], "little")
    if header > num_bytes - _HEADER_LENGTH:
        raise ConfigError(
            f"checkpoint: {path} is cut short: its header alone has {header:,} bytes, the file "
            f"{num_bytes:,}; {_AGAIN}"
        )
    try:
        state: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        length = "IncompleteBuffer" in str(error) or "fully covered" in str(error)
        what = "is cut short or longer than it says" if length else "is no whole safetensors file"
        raise ConfigError(f"checkpoint: {path} {what} ({reason_of(error)}); {_AGAIN}") from error
    return state


def _check_archive(path: Path) -> None:
    """Tell an archive of torch.save from others, and from what is left of one."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] or name for name in archive.namelist()}
    except (*ARCHIVE_ERRORS, OSError) as error:
        raise ConfigError(
            f"checkpoint: {path} is cut short or damaged: it begins as an archive of torch.save "
            f"and has no end; {_AGAIN}"
        ) from error
    if "constants.pkl" in names:
        raise ConfigError(
            f"checkpoint: {path} is a TorchScript program; load it by torch.jit.load and save its "
            "state_dict"
        )
    if "data.pkl" not in names:
        raise ConfigError(
            f"checkpoint: {path} is a zip archive that torch.save did not write; unpack it, and "
            "give the file of weights"
        )


def _refuse_others(path: Path, start: bytes) -> None:
    """Refuse a file that begins as something else."""
    for beginning, what in _OTHERS:
        if start.startswith(beginning):
            raise ConfigError(f"checkpoint: {path} {what}")
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<"):
        raise ConfigError(
            f"checkpoint: {path} is a web page, not weights; download the file itself"
        )
    if start[_TAR_MAGIC] == b"ustar":
        raise ConfigError(
            f"checkpoint: {path} is a tar archive; unpack it, or if torch before 0.2 wrote it, "
            "load it by torch.load and save its state_dict"
        )
    if path.suffix == ".onnx" or (start[:1] == b"\x08" and start[2:3] == b"\x12"):
        raise ConfigError(f"checkpoint: {path} is an ONNX model; save a state_dict from torch")
    if not start.strip(b"\0"):
        raise ConfigError(f"checkpoint: {path} begins with nothing but zeros; {_AGAIN}")
    if start.startswith(b"\x80") and not start.startswith(_LEGACY):
        raise ConfigError(
            f"checkpoint: {path} cannot be read without running code from it (a pickle of "
            "another kind than torch.save writes by default); save a model's state_dict by it"
        )
    if _is_text(start):
        raise ConfigError(
            f"checkpoint: {path} is a text ({_first_words(start)!r}), not weights; {_AGAIN}"
        )
    if not start.startswith(_LEGACY):
        raise ConfigError(
            f"checkpoint: {path} does not begin as a file of torch.save or safetensors; {_AGAIN}, "
            "or save a model's state_dict by torch.save"
        )


def _is_text(start: bytes) -> bool:
    """Whether bytes are readable text; one letter may be cut at their end."""
    try:
        text = start[: -3 if len(start) == _SNIFFED else None].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\r\n\t" for character in text)


def _first_words(start: bytes) -> str:
    return " ".join(start[:60].decode("utf-8", "replace").split())[:40]
