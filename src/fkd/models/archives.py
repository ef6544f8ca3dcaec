"""Archives of `torch.save`, checked before torch opens them, as torch would find their members.

The pickle in an archive is followed before torch is asked to read it, so `zipfile`, which does the
former, and the reader in torch must not see different members in the same bytes. They differ in
case, in which of two equal names they take, and in where they look for the list of members. Torch
compares no checksums.
"""

import io
import zipfile
import zlib
from typing import BinaryIO

from fkd.errors import reason_of
from fkd.models.pickles import Refused, check_pickle

ARCHIVE_ERRORS = (zipfile.BadZipFile, zlib.error, NotImplementedError, ValueError)

_LARGEST_RATIO = 16  # of what is packed in an archive to its size; torch itself packs nothing ...
_SPARE = 1 << 20  # ... and bytes besides, for small files

# Where an archive ends: perhaps a record and its locator for large files, then the end itself.
_END, _LOCATOR, _LARGE = b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06"
_END_BYTES, _LOCATOR_BYTES, _LARGE_BYTES = 22, 20, 56
_TAIL = _LARGE_BYTES + _LOCATOR_BYTES + _END_BYTES + 0xFFFF  # with the longest comment


def check_archive(file: BinaryIO, num_bytes: int) -> None:
    """Compare sizes and checksums of all members, and follow the pickle.

    Args:
        file: an archive; read anywhere.
        num_bytes: its size.

    Raises:
        Refused: it is damaged, has two lists of members, or asks for too much.
        OSError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            _require_one_list(file, num_bytes, archive)
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > _LARGEST_RATIO * num_bytes + _SPARE:
                raise Refused(f"{unpacked:,} bytes are packed in its {num_bytes:,}")
            damaged = archive.testzip()
            if damaged is not None:
                raise Refused(f"{damaged} in it differs from its checksum: the file is damaged")
            for name in archive.namelist():
                if name.rpartition("/")[2].lower() == "data.pkl":
                    check_pickle(io.BytesIO(archive.read(name)), unpacked)
    except (*ARCHIVE_ERRORS, EOFError, RuntimeError) as error:
        raise Refused(f"its archive is damaged: {reason_of(error)}") from error


def _require_one_list(file: BinaryIO, num_bytes: int, archive: zipfile.ZipFile) -> None:
    """Refuse an archive in which torch would find other members than `zipfile` does."""
    names = [name.lower() for name in archive.namelist()]
    if len(set(names)) < len(names):
        raise Refused("two members of its archive have the same name")
    if _place_of_list(file, num_bytes) != archive.start_dir:
        raise Refused("the list of members of its archive is not where its end says")


def _place_of_list(file: BinaryIO, num_bytes: int) -> int | None:
    """Where the end of an archive says that the list of its members begins, as torch reads it."""
    first = max(0, num_bytes - _TAIL)
    file.seek(first)
    tail = file.read(_TAIL)
    end = tail.rfind(_END, 0, len(tail) - _END_BYTES + len(_END))
    locator = tail[max(0, end - _LOCATOR_BYTES) : max(0, end)]
    if not locator.startswith(_LOCATOR):
        return int.from_bytes(tail[end + 16 : end + 20], "little")
    large = end - _LOCATOR_BYTES - _LARGE_BYTES
    told = int.from_bytes(locator[8:16], "little")
    if large < 0 or told != first + large or not tail.startswith(_LARGE, large):
        return None
    return int.from_bytes(tail[large + 48 : large + 56], "little")
