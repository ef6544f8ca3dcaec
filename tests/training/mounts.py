"""Small file systems for a child process; what is left on them stays in the folder."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

_NEW_MOUNTS = 0x00020000  # CLONE_NEWNS


def mount_privately(folder: Path, size: str) -> bool:
    """Give this process alone a memory disk at `folder`; whether that is allowed."""
    commands = [
        ["mount", "--make-rprivate", "/"],
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
    ]
    if ctypes.CDLL(None).unshare(_NEW_MOUNTS) != 0:
        return False
    return all(subprocess.run(c, capture_output=True).returncode == 0 for c in commands)


def with_small_disk(folder: Path, kibibytes: int, function: Callable[[], object]) -> str | None:
    """What `function` returns (its type) or raises, with a disk of that size at `folder`.

    None where mounting is not allowed.
    """
    folder.mkdir()
    saved = folder.with_name(folder.name + "-saved")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = ""
        try:
            if mount_privately(folder, f"{kibibytes}k"):
                said = _outcome(function)
                shutil.copytree(folder, saved)
        finally:
            os.write(writer, said.encode())
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader, "rb") as pipe:
        said = pipe.read().decode()
    if said:
        shutil.copytree(saved, folder, dirs_exist_ok=True)
    return said or None


def _outcome(function: Callable[[], object]) -> str:
    try:
        return type(function()).__name__
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
