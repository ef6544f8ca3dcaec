"""The words of a command line before they are parsed: spelling, order, and short forms.

All of this needs the list of options alone (`options.txt`), so a mistake is told before torch is
imported. What a value means is left to the parser.
"""

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from fkd.cli.verbs import VERBS
from fkd.errors import ConfigError

CONFIG = "--config"
_HELP = ("-h", "--help")
_WITHOUT_VALUE = (*_HELP, "--print_config")
_BOOLEANS = frozenset({"true", "false", "yes", "no"})
# Groups as large as a verb, or whose members a user names: their options are not listed.
_MANY = frozenset({"labels", "maps", "models", "other_stores", "sets", "stores"})
_NAMED = frozenset({"--models", "--other_stores", "--stores"})  # whose members a user names
_OF_A_SET = 2  # dots in --sets.NAME.OPTION
_WORDS = {"true": True, "false": False, "null": None}  # that are no text
_FILE_ENDINGS = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Argument:
    """An option with its value, or a positional argument (`option` is empty)."""

    option: str
    value: str | None = None

    @property
    def words(self) -> str:
        """As one word that the parser reads."""
        if not self.option:
            return self.value or ""
        return self.option if self.value is None else f"{self.option}={self.value}"


@dataclass(frozen=True)
class Options:
    """What a verb takes.

    Attributes:
        names: options such as "--images.root", in the order of --help.
        positional: names of positional arguments, all of them required.
        many: whether the last of them may be given several times.
        switches: options that need no value.
        lists: options that take any number of words.
        required: options without a default.
    """

    names: tuple[str, ...]
    positional: tuple[str, ...]
    many: bool
    switches: frozenset[str]
    lists: frozenset[str]
    required: frozenset[str]

    def first_of(self, group: str) -> str | None:
        """The first option of a group, e.g. "--images.root" of "--images"; None for no group."""
        nested = (name for name in self.names if name.startswith(f"{group}."))
        return next((name for name in nested if not name.endswith(".help")), None)

    def knows(self, option: str) -> bool:
        """Whether the verb takes the option."""
        name = option.removesuffix("+")  # the parser's sign for "one more in the list"
        group, dot, _ = name.removeprefix("--").partition(".")
        nested_in_many = bool(dot) and group in _MANY and f"--{group}" in self.names
        return name in self.names or name in _HELP or nested_in_many


@cache
def options_of(verb: str) -> Options:
    """The options of a verb as the packaged list has them: a line is "verb option [kind ...]"."""
    text = files("fkd.cli").joinpath("options.txt").read_text(encoding="utf-8")
    own = [
        line.removeprefix(f"{verb} ") for line in text.splitlines() if line.startswith(f"{verb} ")
    ]
    kinds = {option: kinds for option, *kinds in map(str.split, own)}
    return Options(
        names=tuple(option for option in kinds if option.startswith("-")),
        positional=tuple(option for option in kinds if not option.startswith("-")),
        many=any("many" in kind for kind in kinds.values()),
        switches=frozenset(option for option, kind in kinds.items() if "switch" in kind),
        lists=frozenset(option for option, kind in kinds.items() if "words" in kind),
        required=frozenset(option for option, kind in kinds.items() if "required" in kind),
    )


def split_verb(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The verb that a command line begins with, of one or two words, and the words after it.

    Raises:
        ConfigError: there is no such verb; names the nearest.
    """
    first, rest = words[0], words[1:]
    seconds = second_words(first)
    if first in VERBS:
        return first, rest
    if not seconds:
        meant = nearest(first, [verb.partition(" ")[0] for verb in VERBS])
        hint = f"; did you mean {meant}?" if meant else f"; use one of {', '.join(VERBS)}"
        raise ConfigError(f"there is no verb {first!r}{hint} (fkd --help)")
    if not rest or rest[0] not in seconds:
        given = f"has no {rest[0]!r}" if rest else "needs to know what"
        meant = nearest(rest[0], seconds) if rest else None
        hint = f"did you mean {meant}?" if meant else f"use one of {', '.join(seconds)}"
        raise ConfigError(f"{first} {given}; {hint} (fkd {first} --help)")
    return f"{first} {rest[0]}", rest[1:]


def second_words(first: str) -> list[str]:
    """The second words of the verbs that begin with this word, such as those of "analyze"."""
    return [verb.partition(" ")[2] for verb in VERBS if verb.startswith(f"{first} ")]


def read_arguments(verb: str, words: Sequence[str]) -> list[Argument]:
    """The arguments of a verb, in the order in which later ones win.

    That is: files of settings, then groups (`--images`), then single options; so the command line
    wins over `--config` wherever it stands. `--teacher NAME` becomes `--teacher.name NAME`.

    Raises:
        ConfigError: there is no such option; names the nearest.
    """
    options = options_of(verb)
    arguments = [_in_full(argument, options) for argument in _split(words, options)]
    for argument in arguments:
        if argument.option and not options.knows(argument.option):
            raise ConfigError(_unknown(verb, argument.option, options))
        if argument.option in _NAMED and not _is_settings(argument.value or ""):
            raise ConfigError(
                f"{argument.option}: each has a name of yours, such as {argument.option}.mine "
                f"{argument.value} (fkd {verb} --help)"
            )
    return sorted(_join_sets(arguments), key=_rank)


def join_positional(verb: str, arguments: Sequence[Argument]) -> list[Argument]:
    """The arguments with positional ones as a list, where a verb takes any number of them."""
    given = [argument for argument in arguments if not argument.option]
    if not options_of(verb).many or not given:
        return list(arguments)
    joined = Argument("", _in_a_list([argument.value or "" for argument in given]))
    return [*(argument for argument in arguments if argument.option), joined]


def require_all(verb: str, arguments: Iterable[Argument]) -> None:
    """Refuse a command line without what the verb needs; a file of settings may have it.

    Raises:
        ConfigError: names what is missing.
    """
    given = {argument.option for argument in arguments}
    if given & {CONFIG, "--print_config", *_HELP} or any(name.endswith(".help") for name in given):
        return
    options = options_of(verb)
    count = sum(not argument.option for argument in arguments)
    missing = [name.upper() for name in options.positional[count:]]
    missing += [
        option
        for option in options.names
        if option in options.required and not given & {option, option.rpartition(".")[0]}
    ]
    if missing:
        raise ConfigError(
            f"{verb} needs {' and '.join(missing)}, e.g. {VERBS[verb].example} (fkd {verb} --help)"
        )


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant, None where none is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return close[0] if close else None


def _split(words: Sequence[str], options: Options) -> list[Argument]:
    """Words paired to options with their values."""
    arguments: list[Argument] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return arguments + [Argument("", each) for each in rest]
        if not _is_option(word):
            arguments.append(Argument("", word))
            continue
        name, equals, value = word.partition("=")
        if equals:
            arguments.append(Argument(name, value))
        elif name in options.lists:
            arguments.append(Argument(name, _in_a_list(_take_words(rest))))
        elif rest and _takes(name, rest[0], options):
            arguments.append(Argument(name, rest.pop(0)))
        elif name in options.switches:
            arguments.append(Argument(name, "true"))
        else:
            arguments.append(Argument(name))
    return arguments


def _take_words(rest: list[str]) -> list[str]:
    """Remove the words before the next option."""
    words = []
    while rest and not _is_option(rest[0]):
        words.append(rest.pop(0))
    return words


def _in_a_list(words: Sequence[str]) -> str:
    """Words as a list that the parser reads; one that is a list already, or null, stays."""
    if len(words) == 1 and (words[0].startswith("[") or words[0] == "null"):
        return words[0]
    return json.dumps(list(words))


def _is_option(word: str) -> bool:
    return word.startswith("-") and word != "-" and not _is_number(word)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _takes(option: str, word: str, options: Options) -> bool:
    """Whether a word is the value of the option before it."""
    if option in _WITHOUT_VALUE or _is_option(word):
        return False
    return option not in options.switches or word.lower() in _BOOLEANS


def _in_full(argument: Argument, options: Options) -> Argument:
    """`--teacher NAME` means `--teacher.name NAME`, the first option of that group."""
    first = options.first_of(argument.option) if argument.option else None
    value = argument.value
    if first is None or value is None or _is_settings(value):
        return argument
    return replace(
        argument, option=first, value=_in_a_list([value]) if first in options.lists else value
    )


def _is_settings(value: str) -> bool:
    """Whether a value stands for a whole group: a file of settings, YAML in braces, or null."""
    return value.startswith("{") or value.endswith(_FILE_ENDINGS) or value in ("null", "")


def _unknown(verb: str, option: str, options: Options) -> str:
    known = nearest(option.lower().replace("-", "_"), [n.replace("-", "_") for n in options.names])
    by_last = [name for name in options.names if name.endswith(f".{option.lstrip('-')}")]
    meant = by_last[0] if by_last else f"--{known.lstrip('_')}" if known else None
    hint = f"; did you mean {meant}?" if meant else ""
    return f"{verb} has no option {option}{hint} (fkd {verb} --help)"


def _join_sets(arguments: list[Argument]) -> list[Argument]:
    """`--sets.v2 PATH --sets.v2.split val` as one group, which the parser would not add up.

    Raises:
        ConfigError: such a set is also given as a whole.
    """
    groups: dict[str, dict[str, object]] = {
        argument.option.rpartition(".")[0]: {}
        for argument in arguments
        if argument.option.startswith("--sets.") and argument.option.count(".") == _OF_A_SET
    }
    joined: dict[str, Argument] = {}  # by what they are, in the order of the first of each
    for number, argument in enumerate(arguments):
        option, value = argument.option, argument.value or ""
        name, field = (option, "root") if option in groups else option.rpartition(".")[::2]
        if name not in groups:
            joined[str(number)] = argument
            continue
        if field == "root" and _is_settings(value):
            raise ConfigError(
                f"{name.lstrip('-')}: give its options in braces or one by one, not both"
            )
        groups[name][field] = _WORDS.get(value.lower(), value)
        joined[name] = Argument(name, json.dumps(groups[name]))
    return list(joined.values())


def _rank(argument: Argument) -> tuple[bool, int]:
    """Settings from files first, then by how deep an option lies in its groups."""
    return argument.option != CONFIG, argument.option.count(".")
