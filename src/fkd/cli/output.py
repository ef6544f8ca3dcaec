"""Standard output and standard error, whatever they are: ascii, latin-1, full, closed, a pipe.

What is printed may have names of files and classes in it, so a character that the encoding lacks
is spelled out instead of ending the command.
"""

import io
import os
import sys

from fkd.errors import escape_controls


def prepare() -> None:
    """Make both streams take any text; those that were closed lead nowhere.

    A closed one would be worse than silent: the next file that is opened, perhaps a shard, would
    get its number, and what a library prints would be written into that file.
    """
    _occupy_closed()
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


def failed() -> bool:
    """Whether standard output takes no more; then it leads nowhere from now on.

    Else Python would complain again at exit, when it writes what is left.
    """
    try:
        flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return True
    return False


def print_error(text: str) -> None:
    """One line on standard error; control characters are spelled out."""
    try:
        print(escape_controls(text), file=sys.stderr, flush=True)
    except OSError:  # nobody can be told; the exit code remains
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _occupy_closed() -> None:
    """Open /dev/null as each of the three standard streams that is closed."""
    if os.name != "posix":
        return
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
