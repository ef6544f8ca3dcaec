"""How a verb's options are parsed: a dataclass or the parameters of a function become options.

Options come from defaults, then `--config FILE.yaml`, then the command line; `--print_config` shows
the result. A codec is written as its spelling, e.g. `--codec ms:5`, and is parsed into a value.
"""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NoReturn, get_args, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter, auto_cli, capture_parser
from jsonargparse.typing import register_type

from fkd.cli.arguments import Argument, nearest, options_of
from fkd.cli.verbs import VERBS, Verb
from fkd.errors import ConfigError, FKDError
from fkd.labels.codec_names import parse_codec
from fkd.labels.codecs import Codec

_SWITCHES = {"--partial", "--repair"}  # that a verb takes also when it is called with less
_NO_UNION = "Does not validate against any of the Union subtypes"  # of the parser


def run_verb(name: str, arguments: Sequence[Argument]) -> None:
    """Parse the arguments of a verb and call its function.

    Args:
        name: of the verb.
        arguments: in the order in which later ones win (`fkd.cli.arguments.read_arguments`).

    Raises:
        ConfigError: an option is unknown, missing or impossible.
        FKDError: whatever the function raises.
    """
    verb = VERBS[name]
    simple = all(not each.option or each.option in _SWITCHES for each in arguments)
    if verb.alone and simple:
        verb = replace(verb, target=verb.alone)
    command = load_command(verb)
    config_class = _config_class(command)
    words = [argument.words for argument in arguments]
    try:
        result = auto_cli(config_class or command, args=words, **_settings(name, verb, command))
    except FKDError:  # of the verb itself; a ConfigError is a ValueError, too
        raise
    except ValueError as error:  # a group of settings that is optional and refuses its values
        if isinstance(error.__cause__, FKDError):
            raise error.__cause__ from None
        if not str(error).startswith(_NO_UNION):
            raise
        raise ConfigError(f"{_reason_of_union(str(error))} (fkd {name} --help)") from error
    if config_class is not None:
        command(result)


def list_options(name: str) -> list[str]:
    """The options of a verb in the order of its --help, positional arguments first.

    After an option stands "switch" if it needs no value, "required" if it has no default, "many"
    after a positional argument that takes a list, and "words" after an option that takes texts.
    """
    verb = VERBS[name]
    command = load_command(verb)
    component = _config_class(command) or command
    parser = capture_parser(lambda: auto_cli(component, args=[], **_settings(name, verb, command)))
    lines = []
    for action in parser._actions:
        kinds = ["switch"] if action.option_strings and action.nargs == "?" else []
        required = action.required or action.dest in parser._extra_required_keys
        kinds += ["required"] if required else []
        kinds += ["many"] if _takes_list(action) else []
        kinds += ["words"] if _takes_words(action) else []
        lines.append(" ".join([(action.option_strings or [action.dest])[0], *kinds]))
    return sorted(lines, key=lambda line: line.startswith("-"))


def _takes_list(action: Any) -> bool:
    """Whether a positional argument may be a list."""
    kind = getattr(action, "_typehint", None)
    kinds = (kind, *get_args(kind))
    return not action.option_strings and any(get_origin(each) is list for each in kinds)


def _takes_words(action: Any) -> bool:
    """Whether an option takes a list of texts, which are words after it."""
    return bool(action.option_strings) and getattr(action, "_typehint", None) == list[str]


def load_command(verb: Verb) -> Callable[..., Any]:
    """The function that a verb calls."""
    module, name = verb.target.split(":")
    command: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return command


def _config_class(command: Callable[..., Any]) -> type | None:
    """The dataclass that is the only parameter of a function, None if it has others."""
    parameters = list(inspect.signature(command).parameters.values())
    kind = parameters[0].annotation if len(parameters) == 1 else None
    return kind if isinstance(kind, type) and dataclasses.is_dataclass(kind) else None


def _settings(name: str, verb: Verb, command: Callable[..., Any]) -> dict[str, Any]:
    """Keyword arguments of `auto_cli`."""
    arguments = f"{verb.arguments} " if verb.arguments else ""
    return {
        "parser_class": _Parser,
        "prog": f"fkd {name}",
        "usage": f"fkd {name} {arguments}[--config FILE.yaml] [--OPTION VALUE ...]",
        "description": _describe(verb, command),
        "formatter_class": _Formatter,
    }


def _describe(verb: Verb, command: Callable[..., Any]) -> str:
    """What --help says before the list of all options."""
    text = (inspect.getdoc(command) or "").partition("\n\nArgs:")[0]
    more: Callable[[], str] | None = getattr(inspect.getmodule(command), "more_help", None)
    width = max(map(len, verb.options), default=0) + 2
    options = (f"  --{option:{width}}{said}" for option, said in verb.options.items())
    parts = [
        text,
        f"example:\n  {verb.example}",
        "\n".join(["most used options:", *options]),
        *([more()] if more is not None else []),
    ]
    return "\n\n".join(parts)


class _Formatter(DefaultHelpFormatter):  # type: ignore[misc,unused-ignore]
    """Descriptions keep their lines."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text


class _Parser(ArgumentParser):  # type: ignore[misc,unused-ignore]
    """Switches need no value, codecs have spellings, and an error is one line."""

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("type") is bool:
            kwargs |= {"nargs": "?", "const": True}  # `--repair` means `--repair true`
        if _is_codec(kwargs.get("default")):
            kwargs["default"] = kwargs["default"].name  # or its fields would become options
        return super().add_argument(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        hint = _hint(message, options_of(self.prog.removeprefix("fkd ")).names)
        raise ConfigError(f"{_in_one_line(message)}{hint} ({self.prog} --help)") from ex


def _hint(message: str, options: Sequence[str]) -> str:
    """The setting that was probably meant by one that a file has and the verb has not."""
    unknown = re.search(r"Option '([^']+)' is not accepted", message)
    meant = unknown and nearest(unknown[1], [option.lstrip("-") for option in options])
    return f"; did you mean {meant}?" if meant else ""


def _in_one_line(message: str) -> str:
    """An error of the parser: the option, and the most specific of the reasons it lists."""
    options = ".".join(re.findall(r'Parser key "([^"]+)":', message))
    lines = [line for line in message.splitlines() if line.strip()]
    if not options or len(lines) == 1:
        return " ".join(message.split())
    deepest = max(lines, key=lambda line: len(line) - len(line.lstrip()))
    reason = re.sub(r"^[- ]*(Not of type \w+: )?", "", deepest)
    reason = re.sub(r"<class '(\w+)'>|typing\.", r"\1", reason)
    if reason.startswith("Expected a dot import path"):  # a word where a group may be null
        return f"{options}: give its settings, --{options}.NAME VALUE (see --{options}.help)"
    given = re.search(r"^ *Given value: (\S+)$", message, re.MULTILINE)
    return f"{options}: {reason}" + (f". Got value: {given[1]}" if given else "")


def _reason_of_union(message: str) -> str:
    """Why an optional group of settings was refused, without "or it must be null"."""
    reasons = [line[4:] for line in message.splitlines() if line.startswith("  - ")]
    own = [reason for reason in reasons if not reason.startswith("Expected a <class 'NoneType'>")]
    return (own or reasons or [message])[0]


def _is_codec(value: object) -> bool:
    return hasattr(value, "name") and hasattr(value, "encodes") and hasattr(value, "targets")


register_type(
    Codec,
    serializer=lambda codec: codec if isinstance(codec, str) else codec.name,
    deserializer=parse_codec,
    type_check=lambda value, kind: _is_codec(value),
)
