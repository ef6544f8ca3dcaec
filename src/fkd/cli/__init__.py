"""The command `fkd VERB`: calls the verb, and prints errors in one line.

Only this package prints and reads the command line.
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

from fkd.cli import output
from fkd.cli.arguments import (
    join_positional,
    options_of,
    read_arguments,
    require_all,
    second_words,
    split_verb,
)
from fkd.cli.paths import require_inputs
from fkd.cli.process import prepare_process
from fkd.cli.ranks import is_first_to_say, leave_to_main_process
from fkd.cli.verbs import GROUPS, VERBS
from fkd.errors import FKDError
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
    if words[0] == "--version":
        print(_version())
        return
    if second_words(words[0]) and words[1:2] in (["-h"], ["--help"]):
        print(_help_of_group(words[0]))
        return
    verb, options = split_verb(words)
    leave_to_main_process(shared=VERBS[verb].shared)
    arguments = read_arguments(verb, options)
    require_all(verb, arguments)
    require_inputs(arguments, options_of(verb).positional, many=options_of(verb).many)
    prepare_process()
    from fkd.cli.parser import run_verb  # a slow import, which mistakes should not wait for

    run_verb(verb, join_positional(verb, arguments))


def _help() -> str:
    summaries = {name: verb.summary for name, verb in VERBS.items() if " " not in name}
    for name in VERBS:
        first, _, second = name.partition(" ")
        if second:
            seconds = ", ".join(second_words(first))
            summaries[first] = f"{GROUPS[first]}: {seconds}"
    verbs = "\n".join(f"  {name:12}{summary}" for name, summary in summaries.items())
    return (
        "usage: fkd VERB [--config FILE.yaml] [--OPTION VALUE ...]\n\n"
        "Label images once with a teacher, train any number of students: soft labels of many\n"
        f"random crops per image in a compact, checked store, and training from it.\n\n{verbs}\n\n"
        "fkd VERB --help lists the options of a verb; --print_config prints them as YAML."
    )


def _help_of_group(first: str) -> str:
    verbs = "\n".join(
        f"  {second:12}{VERBS[f'{first} {second}'].summary}" for second in second_words(first)
    )
    return (
        f"usage: fkd {first} NAME [--config FILE.yaml] [--OPTION VALUE ...]\n\n"
        f"{GROUPS[first].capitalize()}.\n\n{verbs}\n\n"
        f"fkd {first} NAME --help lists the options of each."
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
