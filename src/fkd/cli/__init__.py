"""The command `fkd VERB`: picks the verb, parses its options, says errors in one line.

A verb is a function in a module of its own. If its only parameter is a configuration dataclass, the
fields of that dataclass are the options; otherwise the parameters are. Options come from defaults,
then `--config FILE.yaml`, then the command line; `--print_config` shows the result.

Only this package prints and reads the command line.
"""

import dataclasses
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from fkd.cli.process import prepare_process
from fkd.errors import FKDError

VERBS: dict[str, tuple[str, str]] = {
    "plan": ("fkd.cli.label:plan", "bytes, teacher crops and hours, before anything is run"),
    "label": ("fkd.cli.label:label", "run the teacher once and write a label store"),
    "label-maps": ("fkd.cli.label:label_maps", "one label map of each whole image (ReLabel)"),
    "import-maps": ("fkd.cli.label:import_maps", "released ReLabel maps as a store of maps"),
    "train": ("fkd.cli.train:train", "train a student from a label store (or without one)"),
    "eval": ("fkd.cli.evaluate:evaluate", "top-1 and top-5 of a run or a model on images"),
    "inspect": ("fkd.cli.look:inspect", "what a store holds: settings, sizes, sample labels"),
    "verify": ("fkd.cli.verify:verify", "is a store whole, does it belong to these images"),
    "convert": ("fkd.cli.convert:convert", "a store in compact or plain form, without the teacher"),
    "view": ("fkd.cli.look:view", "an HTML page of images, crop boxes and labels"),
    "demo": ("fkd.cli.demo:demo", "the whole story on bundled real images, in minutes"),
}
_USAGE_ERROR = 2  # also argparse's
_INTERRUPTED = 130  # 128 + SIGINT, what shells expect


def main(argv: list[str] | None = None) -> None:
    """Run the command line; ends the process with exit code 2 on any error a user can mend."""
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
    try:
        _run(_load(VERBS[verb][0]), options, prog=f"fkd {verb}")
    except FKDError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("fkd: interrupted; the same command goes on where this one stopped", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output (a pager, head) has left; Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(command: Callable[..., Any], options: list[str], prog: str) -> None:
    """Parse `options` for `command` and call it."""
    from jsonargparse import ArgumentParser, DefaultHelpFormatter, auto_cli

    class Formatter(DefaultHelpFormatter):  # type: ignore[misc,unused-ignore]
        """Descriptions keep their lines."""

        def _fill_text(self, text: str, width: int, indent: str) -> str:
            return text

    class Parser(ArgumentParser):  # type: ignore[misc,unused-ignore]
        """Switches need no value: `--repair` means `--repair true`."""

        def add_argument(self, *args: Any, **kwargs: Any) -> Any:
            if kwargs.get("type") is bool:
                kwargs |= {"nargs": "?", "const": True}
            return super().add_argument(*args, **kwargs)

    parameters = list(inspect.signature(command).parameters.values())
    config_class = parameters[0].annotation if len(parameters) == 1 else None
    if isinstance(config_class, type) and dataclasses.is_dataclass(config_class):
        config = auto_cli(
            config_class,
            args=options,
            parser_class=Parser,
            prog=prog,
            description=_describe(command),
            formatter_class=Formatter,
        )
        command(config)
    else:
        auto_cli(command, args=options, parser_class=Parser, prog=prog)


def _describe(command: Callable[..., Any]) -> str:
    """What --help says of a verb: its docstring, and what its module has to add."""
    more: Callable[[], str] | None = getattr(inspect.getmodule(command), "more_help", None)
    described = inspect.getdoc(command) or ""
    return described if more is None else f"{described}\n\n{more()}"


def _load(target: str) -> Callable[..., Any]:
    """The function that "module:name" names; imported late, so `fkd --help` needs no torch."""
    module, name = target.split(":")
    command: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return command


def _help() -> str:
    verbs = "\n".join(f"  {verb:12}{summary}" for verb, (_, summary) in VERBS.items())
    return (
        "usage: fkd VERB [--config FILE.yaml] [--option value ...]\n\n"
        "Teacher labels once, students for ever: soft labels of many crops per image in a\n"
        f"compact, checked store, and training from it.\n\n{verbs}\n\n"
        "fkd VERB --help lists the options of a verb; --print_config prints them as YAML."
    )


def _version() -> str:
    from fkd import __version__

    return f"fkd {__version__}"


def _fail(message: str) -> NoReturn:
    print(f"fkd: error: {message}", file=sys.stderr)
    sys.exit(_USAGE_ERROR)
