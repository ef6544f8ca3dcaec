"""Standard output and standard error, whatever they are: ascii, latin-1, full, closed, a pipe.

What is printed may have names of files and classes in it, so a character that the encoding lacks
is spelled out instead of ending the command.
"""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from fkd.errors import escape_controls


class _Watched(io.TextIOWrapper):
    """Standard output that remembers whether it has failed; an OSError alone does not tell."""

    failed: OSError | None = None
    _replaced: io.TextIOWrapper | None = None

    @classmethod
    def like(cls, stream: io.TextIOWrapper) -> "_Watched":
        """A stream to the same place."""
        watched = cls(
            stream.buffer,
            encoding=stream.encoding,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        watched._replaced = stream  # which would close the buffer once nothing refers to it
        return watched

    def write(self, text: str) -> int:
        """As usual."""
        with self._watching():
            return super().write(text)

    def flush(self) -> None:
        """As usual."""
        with self._watching():
            super().flush()

    @contextmanager
    def _watching(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failed = error
            raise


def prepare() -> None:
    """Make both streams take any text; those that were closed lead nowhere.

    A closed one would be worse than silent: the next file that is opened, perhaps a shard, would
    get its number, and what a library prints would be written into that file.
    """
    _occupy_closed()
    if type(sys.stdout) is io.TextIOWrapper:  # not what a test or a notebook has put there
        sys.stdout = _Watched.like(sys.stdout)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Write what is left to write.

    Raises:
        OSError: standard output takes no more.
    """
    if sys.stdout is not None:
        sys.stdout.flush()
    if isinstance(sys.stdout, _Watched) and sys.stdout.failed is not None:
        raise sys.stdout.failed  # argparse keeps it to itself


def failed() -> bool:
    """Whether standard output took no more; then it leads nowhere from now on.

    Else Python would complain again at exit, when it writes what is left.
    """
    if not isinstance(sys.stdout, _Watched) or sys.stdout.failed is None:
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def print_error(text: str) -> None:
    """One line on standard error; control characters are spelled out."""
    try:
        print(escape_controls(text), file=sys.stderr, flush=True)
    except OSError:  # there is nowhere to print; the exit code remains
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _occupy_closed() -> None:
    """Open /dev/null as each of the three standard streams that is closed."""
    if os.name != "posix":
        return
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
