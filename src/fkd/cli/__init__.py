"""The command `fkd VERB`: calls the verb, and prints errors in one line.

Only this package prints and reads the command line.
"""

import os
import sys
from typing import NoReturn

from fkd.cli.process import prepare_process
from fkd.cli.ranks import is_first_to_say
from fkd.cli.verbs import VERBS
from fkd.errors import FKDError

_USAGE_ERROR = 2  # also argparse's
_INTERRUPTED = 130  # 128 + SIGINT, what shells expect


def main(argv: list[str] | None = None) -> None:
    """Run the command line; ends the process with exit code 2 on any error a user can correct."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return
    verb, options = arguments[0], arguments[1:]
    if verb == "--version":
        print(_version())
        return
    if verb not in VERBS:
        _fail(f"there is no verb {verb!r}; use one of {', '.join(VERBS)} (fkd --help)")
    prepare_process()
    from fkd.cli.parser import run_verb  # imports torch, which `fkd --help` should not wait for

    try:
        run_verb(verb, options)
    except FKDError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("fkd: interrupted; the same command resumes where it stopped", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output (a pager, head) has left; Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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


def _fail(message: str) -> NoReturn:
    if is_first_to_say(message):
        print(f"fkd: error: {message}", file=sys.stderr)
    sys.exit(_USAGE_ERROR)
