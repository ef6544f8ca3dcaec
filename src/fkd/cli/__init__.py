"""The command `fkd VERB`: calls the verb, and prints errors in one line.

Only this package prints and reads the command line.
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

from fkd.cli import output
from fkd.cli.arguments import (
    join_positional,
    nearest,
    options_of,
    read_arguments,
    require_all,
)
from fkd.cli.paths import require_inputs
from fkd.cli.process import prepare_process
from fkd.cli.ranks import is_first_to_say, leave_to_main_process
from fkd.cli.verbs import VERBS
from fkd.errors import ConfigError, FKDError
from fkd.userfiles import os_reason

_USAGE_ERROR = 2  # also argparse's
_INTERRUPTED = 130  # 128 + SIGINT, what shells expect
_NULL_BYTE = "embedded null byte"  # what Python says of such a path


def main(argv: list[str] | None = None) -> None:
    """Run the command line; ends the process with exit code 2 on any error a user can correct."""
    words = sys.argv[1:] if argv is None else argv
    output.prepare()
    try:
        try:
            _run(words)
        finally:  # --help ends by SystemExit
            output.flush()
    except FKDError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        output.print_error("fkd: interrupted; the same command resumes where it stopped")
        sys.exit(_INTERRUPTED)
    except OSError as error:
        if not output.failed():
            _fail(_describe(error))
        if not isinstance(error, BrokenPipeError):  # else a pager or `head` has seen enough
            _fail(f"standard output cannot be written: {os_reason(error)}")
    except ValueError as error:
        if str(error) != _NULL_BYTE:
            raise
        _fail("a path has a null byte in it; correct it, probably in the file of settings")


def _run(words: Sequence[str]) -> None:
    """Everything but the errors.

    Raises:
        FKDError: what a user can correct.
        OSError: what no other place has put into words.
    """
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return
    verb, options = words[0], words[1:]
    if verb == "--version":
        print(_version())
        return
    if verb not in VERBS:
        meant = nearest(verb, VERBS)
        hint = f"; did you mean {meant}?" if meant else f"; use one of {', '.join(VERBS)}"
        raise ConfigError(f"there is no verb {verb!r}{hint} (fkd --help)")
    leave_to_main_process(shared=VERBS[verb].shared)
    arguments = read_arguments(verb, options)
    require_all(verb, arguments)
    require_inputs(arguments, options_of(verb).positional)
    prepare_process()
    from fkd.cli.parser import run_verb  # a slow import, which mistakes should not wait for

    run_verb(verb, join_positional(verb, arguments))


def _help() -> str:
    verbs = "\n".join(f"  {name:12}{verb.summary}" for name, verb in VERBS.items())
    return (
        "usage: fkd VERB [--config FILE.yaml] [--OPTION VALUE ...]\n\n"
        "Label images once with a teacher, train any number of students: soft labels of many\n"
        f"random crops per image in a compact, checked store, and training from it.\n\n{verbs}\n\n"
        "fkd VERB --help lists the options of a verb; --print_config prints them as YAML."
    )


def _version() -> str:
    from fkd import __version__

    return f"fkd {__version__}"


def _describe(error: OSError) -> str:
    """An error of the system that no other place has put into words: path and reason."""
    places = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return f"{' and '.join(places)}: {os_reason(error)}" if places else os_reason(error)


def _fail(message: str) -> NoReturn:
    if is_first_to_say(message):
        output.print_error(f"fkd: error: {message}")
    sys.exit(_USAGE_ERROR)
