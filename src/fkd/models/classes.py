"""What the outputs of a classifier are called, and which of them a data set means.

A class of ImageNet is called by its WordNet id ("n02123045"), which is unique; people read its
lemmas ("tabby, tabby cat"). A head without names has the classes "0", "1", ...
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fkd.errors import ConfigError
from fkd.userfiles import read_text

# Outputs of a head -> list of classes, as timm infers it. Only sizes that are no coincidence.
_IMAGENET_BY_SIZE = {
    1000: "imagenet-1k",
    11221: "imagenet-21k-miil",
    11821: "imagenet-12k",
    21841: "imagenet-22k",
    21842: "imagenet-22k-ms",
    21843: "imagenet-21k-goog",
}


def imagenet_classes(num_classes: int) -> list[str] | None:
    """The WordNet ids of an ImageNet head with that many outputs, None if there is no such head."""
    if num_classes not in _IMAGENET_BY_SIZE:
        return None
    return list(_imagenet_info(_IMAGENET_BY_SIZE[num_classes]).label_names())


def numbered_classes(num_classes: int) -> list[str]:
    """Names for a head without any: "0", "1", ..."""
    return [str(i) for i in range(num_classes)]


def display_names(class_names: Sequence[str]) -> list[str]:
    """Names for people: the first lemma of a WordNet id, any other name as it is.

    Example:
        >>> display_names(["n02123045", "my cat"])
        ['tabby', 'my cat']
    """
    return [(_lemmas(name) or [name])[0] for name in class_names]


def match_classes(wanted: Sequence[str], head: Sequence[str]) -> list[int]:
    """For each wanted class the output of the head that stands for it.

    A name matches if it is the same; or else if it equals, apart from case and underscores, one of
    the words for exactly one class. Words are the name itself and the lemmas of a WordNet id; the
    first lemma goes before the others.

    Example:
        >>> match_classes(["Egyptian_cat", "n02123045"], ["n02123045", "n02124075"])
        [1, 0]

    Raises:
        ConfigError: a name matches no class or several, or two names match the same class.
    """
    position = {name: i for i, name in enumerate(head)}
    first_words, all_words = _words_of_outputs(head)
    candidates = [
        [position[name]] if name in position else _by_words(name, first_words, all_words)
        for name in wanted
    ]
    _refuse_unmatched(wanted, head, candidates)
    outputs = [first for first, *_ in candidates]
    _refuse_shared(wanted, head, outputs)
    return outputs


def match_known_classes(wanted: Iterable[str], head: Sequence[str]) -> list[int]:
    """As `match_classes`, but -1 for a class that matches none or several, or the same as another.

    Example:
        >>> match_known_classes(["Egyptian_cat", "bicycle lane"], ["n02123045", "n02124075"])
        [1, -1]
    """
    position = {name: i for i, name in enumerate(head)}
    first_words, all_words = _words_of_outputs(head)
    taken: set[int] = set()
    outputs = []
    for name in wanted:
        exact = [position[name]] if name in position else None
        found = exact or _by_words(name, first_words, all_words)
        output = found[0] if len(found) == 1 and found[0] not in taken else -1
        taken.add(output)
        outputs.append(output)
    return outputs


def read_class_names(path: str | Path) -> list[str]:
    """Class names in the order of a head's outputs: a JSON list, or a text file with one per line.

    Raises:
        ConfigError: the file is missing or holds something else.
    """
    text = read_text("class_names", path)
    try:
        is_json = Path(path).suffix.lower() == ".json"
        names: Any = json.loads(text) if is_json else _lines(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"class_names: {path} is not JSON, as its name says ({error}); give a JSON list, or a "
            ".txt file with one name per line"
        ) from error
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"class_names: {path} must hold a list of non-empty names")
    if len(set(names)) != len(names):
        raise ConfigError(f"class_names: {path} holds a name twice; names must be unique")
    return names


def _lines(text: str) -> list[str]:
    """Lines without white space around them, and without empty ones at the end.

    Not `splitlines`, for which some characters within a name end a line.
    """
    return [line.strip() for line in text.rstrip().split("\n")]


def _words_of_outputs(head: Sequence[str]) -> tuple[dict[str, set[int]], dict[str, set[int]]]:
    """From a word to the outputs it may mean, by the first word of each class and by all words."""
    first: dict[str, set[int]] = defaultdict(set)
    every: dict[str, set[int]] = defaultdict(set)
    for output, name in enumerate(head):
        words = _words(name)
        first[words[0]].add(output)
        for word in words:
            every[word].add(output)
    return first, every


def _by_words(
    name: str, first_words: dict[str, set[int]], all_words: dict[str, set[int]]
) -> list[int]:
    for table in (first_words, all_words):
        outputs: set[int] = set().union(*(table.get(word, set()) for word in _words(name)))
        if outputs:
            return sorted(outputs)
    return []


def _refuse_unmatched(
    wanted: Sequence[str], head: Sequence[str], candidates: Sequence[list[int]]
) -> None:
    missing = [name for name, outputs in zip(wanted, candidates, strict=True) if not outputs]
    if missing:
        raise ConfigError(
            f"{len(missing)} of {len(wanted)} classes are unknown to the teacher, the first is "
            f"{missing[0]!r} (it knows {len(head)} such as {_examples(head)}); rename the classes, "
            "name the teacher's outputs in teacher.class_names, keep the teacher's own classes, or "
            f"first train a teacher on these (fkd train --method vanilla){_suggest_numbers(wanted)}"
        )
    for name, outputs in zip(wanted, candidates, strict=True):
        if len(outputs) > 1:
            options = " or ".join(head[i] for i in outputs)
            raise ConfigError(f"class {name!r} may mean {options}; rename it to the one you mean")


def _suggest_numbers(wanted: Sequence[str]) -> str:
    if not all(name.isdecimal() for name in wanted):
        return ""
    return "; if these numbers are the ids of its classes, set images.classes by_number"


def _refuse_shared(wanted: Sequence[str], head: Sequence[str], outputs: Sequence[int]) -> None:
    owner: dict[int, str] = {}
    for name, output in zip(wanted, outputs, strict=True):
        if output in owner:
            raise ConfigError(
                f"classes {owner[output]!r} and {name!r} both mean {head[output]!r} of the "
                "teacher; rename one of them"
            )
        owner[output] = name


def _examples(head: Sequence[str]) -> str:
    return ", ".join(_described(name) for name in head[:2])


def _described(name: str) -> str:
    lemmas = _lemmas(name)
    return f"{name} ({lemmas[0]})" if lemmas else name


def _words(name: str) -> list[str]:
    return [_normalize(word) for word in _lemmas(name) or [name]]


def _normalize(word: str) -> str:
    return " ".join(word.replace("_", " ").casefold().split())


def _lemmas(name: str) -> list[str]:
    """The words for a WordNet id, none for another name."""
    if len(name) != 9 or name[0] != "n" or not name[1:].isdigit():
        return []
    described = _imagenet_lemmas().get(name, "")
    return [lemma.strip() for lemma in described.split(",")] if described else []


@cache
def _imagenet_lemmas() -> dict[str, str]:
    """The words for each WordNet id, from timm's own file; timm itself brings torch."""
    timm = find_spec("timm")
    assert timm is not None
    assert timm.origin is not None
    file = Path(timm.origin).parent / "data/_info/imagenet_synset_to_lemma.txt"
    lines = file.read_text(encoding="utf-8").splitlines()
    return {name: lemmas for name, _, lemmas in (line.partition("\t") for line in lines)}


@cache
def _imagenet_info(subset: str) -> Any:
    from timm.data.imagenet_info import (
        ImageNetInfo,
    )  # imported late: it brings torch and takes seconds

    return ImageNetInfo(subset)


def refuse_duplicates(class_names: Iterable[str], owner: str) -> None:
    """Names must be unique to match by name.

    Raises:
        ConfigError: a name occurs twice.
    """
    seen: set[str] = set()
    for name in class_names:
        if name in seen:
            raise ConfigError(f"{owner} has two classes called {name!r}; names must be unique")
        seen.add(name)
