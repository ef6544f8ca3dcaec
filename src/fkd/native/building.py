"""Compiling the kernels: what the installation runs, by its path, before there is a package.

Knows the standard library alone.
"""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

LIBRARY = "kernels.so"
_FLAGS = (
    *("-O3", "-std=gnu11", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra"),
    # Loops may be vectorised: sums where a pragma allows it, and no traps or errno to keep.
    *("-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"),
)


def sources_digest(folder: Path) -> str:
    """SHA-256 of the C files of a folder, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for file in _sources(folder, "*.[ch]"):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def compile_kernels(folder: Path) -> str:
    """Compile the C files of a folder into a library beside them.

    The compiler is `cc`, or what the environment variable CC names. An older library is removed
    first, so that there is none if this fails.

    Returns:
        why there is no library: empty if there is one.
    """
    library = folder / LIBRARY
    library.unlink(missing_ok=True)
    command = os.environ.get("CC", "cc").split()
    if not command or shutil.which(command[0]) is None:
        return f"there is no C compiler {' '.join(command)!r}"
    unfinished = library.with_suffix(f".{os.getpid()}")
    result = subprocess.run(
        [
            *(*command, *_FLAGS, f'-DSOURCES="{sources_digest(folder)}"', "-o", str(unfinished)),
            *(*map(str, _sources(folder, "*.c")), "-lm"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        unfinished.unlink(missing_ok=True)
        return result.stderr.strip()
    unfinished.replace(library)
    return ""


def _sources(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern))
