import doctest

import pytest

from fkd.errors import DamagedStore, FormatError
from fkd.store import canonical
from fkd.store.canonical import Fields


def test_examples_in_docstrings_are_true():
    result = doctest.testmod(canonical)
    assert result.attempted > 0
    assert result.failed == 0


def test_order_of_members_does_not_change_the_bytes():
    assert canonical.encode({"a": 1, "b": 2}) == canonical.encode({"b": 2, "a": 1})


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1}',  # no newline
        b'{"a": 1}\n',
        b'{"b":1,"a":2}\n',
        b'{"a":1,"a":2}\n',
        b'{"a":1.50}\n',
        b'{"a":1e999}\n',
        b'{"a":NaN}\n',
        b'{"a":"\xc3\xa9"}\n',
        b'{"a":1}\n\n',
        b"\xff\n",
        b"",
        b"[" * 100_000 + b"]" * 100_000 + b"\n",
        b"1" * 5000 + b"\n",
    ],
    ids=lambda data: data[:12].decode("latin-1"),
)
def test_anything_but_canonical_bytes_is_refused(data):
    with pytest.raises(DamagedStore, match=r"here\.json"):
        canonical.decode(data, "here.json")


@pytest.mark.parametrize(
    ("take", "message"),
    [
        (lambda f: f.integer("none", 0, 9), "lacks the field none"),
        (lambda f: f.integer("text", 0, 9), 'text is "x", not a whole number from 0 to 9'),
        (lambda f: f.integer("yes", 0, 9), "yes is true"),
        (lambda f: f.integer("ten", 0, 9), "ten is 10"),
        (lambda f: f.text("ten"), "ten is 10, not a string"),
        (lambda f: f.digest("text"), "64 hexadecimal digits"),
        (lambda f: f.items("text"), "not a list"),
        (lambda f: f.members("text"), "not an object"),
        (lambda f: f.exactly("text", "yes"), "unknown field"),
    ],
)
def test_an_odd_member_is_named(take, message):
    fields = Fields({"text": "x", "yes": True, "ten": 10}, "here.json")
    with pytest.raises(FormatError, match=r"here\.json") as caught:
        take(fields)
    assert message in str(caught.value)


def test_differences_name_dotted_fields_and_both_values():
    old = {"crops": {"seed": 0}, "teachers": [{"name": "a"}], "gone": 1, "names": ["x", "y", "z"]}
    new = {"crops": {"seed": 1}, "teachers": [{"name": "b"}], "came": 2, "names": ["y", "x", "z"]}
    assert list(canonical.differences(old, new)) == [
        "came: absent in the store, 2 now",
        "crops.seed: 0 in the store, 1 now",
        "gone: 1 in the store, absent now",
        'names.0: "x" in the store, "y" now (and 1 more items of names)',
        'teachers.0.name: "a" in the store, "b" now',
    ]


def test_differences_see_that_one_is_not_true():
    assert list(canonical.differences({"a": 1}, {"a": True})) == ["a: 1 in the store, true now"]


def test_printable_keys_cannot_move_the_cursor():
    assert canonical.printable(b"\x1b[2Ja\nb\xff\xc3\xa9") == "\\x1b[2Ja\\nb\\xff\u00e9"


@pytest.mark.parametrize("text", ["a b", "%41", "%e9", "", "%", "x" * 4097, "\u00e9"])
def test_only_one_spelling_of_a_percent_encoded_key_is_accepted(text):
    with pytest.raises(FormatError, match=r"here\.json"):
        canonical.percent_decode(text, "here.json")
