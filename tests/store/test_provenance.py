"""What a store says of its making is checked when it is opened, before anything uses it."""

import json
from typing import get_args

import pytest

from fkd.crops.replay import Interpolation
from fkd.errors import FormatError
from fkd.store.canonical import Fields
from fkd.store.provenance import (
    INTERPOLATIONS,
    MAX_CANARIES,
    MAX_INPUT_SIDE,
    MAX_TEACHERS,
    Canary,
    parse_canaries,
    parse_libraries,
    parse_provenance,
)

CANARY = Canary(row=2, crop=1, sha256="a" * 64, thumbnail=b"\1" * 192).in_manifest()
CONFIG = {
    "teachers": [
        {
            "name": "net",
            "input_size": 224,
            "interpolation": "bicubic",
            "license": "apache-2.0",
            "standardization": [0.5, 2],
            "more": 1,
        }
    ],
    "decoder": {"library": "pillow"},
    "numerics": {"autocast": "bf16", "batch_size": 16},
}
ODD = [None, True, -1, 0, 1.5, 10**8, 2**64, 10**30, "x", "", [], [None], {}, {"x": None}]


def provenance(config):
    return parse_provenance(Fields(config, "config.json"), "config.json")


def test_what_labeling_writes_is_read():
    found = provenance(CONFIG)
    (teacher,) = found.teachers
    assert (teacher.name, teacher.input_size, teacher.interpolation) == ("net", 224, "bicubic")
    assert teacher.license == "apache-2.0"
    assert teacher.standardization == (0.5, 2.0)
    assert found.decoder == {"library": "pillow"}
    assert found.autocast == "bf16"


def test_absent_members_are_unknown():
    assert provenance({}).teachers == ()
    assert provenance({}).decoder is provenance({}).autocast is None
    (teacher,) = provenance({"teachers": [{}]}).teachers
    assert teacher.name is teacher.input_size is teacher.interpolation is teacher.license is None
    assert teacher.standardization is None
    assert parse_libraries({}, "m").torch is None


def test_the_interpolations_are_those_of_replay():
    assert get_args(Interpolation) == INTERPOLATIONS


SOUND = {
    ("teachers",): [[], [{}]],
    ("teachers", 0): [{}],
    ("teachers", 0, "name"): ["x", ""],
    ("teachers", 0, "input_size"): [],
    ("teachers", 0, "interpolation"): [],
    ("teachers", 0, "license"): ["x", ""],
    ("teachers", 0, "standardization"): [],
    ("decoder",): [{}, {"x": None}],
    ("numerics",): [{}, {"x": None}],
    ("numerics", "autocast"): [None],
}


@pytest.mark.parametrize("where", SOUND, ids=str)
def test_a_member_of_another_kind_is_refused(where):
    for odd in ODD:
        config = json.loads(json.dumps(CONFIG))
        target = config
        for name in where[:-1]:
            target = target[name]
        target[where[-1]] = odd
        # True equals 1 in Python, and in no JSON; {"x": None} is an object of unknown members.
        expected = odd in SOUND[where] or (where == ("teachers", 0) and odd == {"x": None})
        if expected and not isinstance(odd, bool):
            provenance(config)
        else:
            with pytest.raises(FormatError, match=r"config\.json"):
                provenance(config)


@pytest.mark.parametrize("size", [1, MAX_INPUT_SIDE])
def test_limits_of_the_input_are_included(size):
    provenance({"teachers": [{"input_size": size}]})
    with pytest.raises(FormatError):
        provenance({"teachers": [{"input_size": MAX_INPUT_SIDE + 1}]})


def test_many_teachers_and_canaries_are_refused_before_they_are_read():
    with pytest.raises(FormatError, match="65 teachers; a store allows 64"):
        provenance({"teachers": [None] * (MAX_TEACHERS + 1)})
    with pytest.raises(FormatError, match="100,000 canaries; a store allows 256"):
        parse_canaries([None] * 100_000, 3, 2, "m")
    assert len(parse_canaries([CANARY] * MAX_CANARIES, 3, 2, "m")) == MAX_CANARIES


def test_canaries_come_back():
    (canary,) = parse_canaries([CANARY], 3, 2, "m")
    assert canary.in_manifest() == CANARY
    assert len(canary.thumbnail) == 192


@pytest.mark.parametrize("name", ["row", "crop", "sha256", "thumbnail", "more", None])
def test_malformed_canaries_are_refused(name):
    sound = {"row": [0, 1, 2], "crop": [0, 1], "thumbnail": [""]}.get(name, [])
    for odd in [*ODD, 3, "====", "AAA", "AAA=\n", "\u00e9" * 4, "A" * 40_000]:
        changed = odd if name is None else CANARY | {name: odd}
        if type(odd) in (int, str) and odd in sound:
            parse_canaries([changed], 3, 2, "m")
            continue
        with pytest.raises(FormatError, match=r"m: canaries\.0"):
            parse_canaries([changed], 3, 2, "m")
    for missing in CANARY:
        with pytest.raises(FormatError, match=f"lacks the field {missing}"):
            parse_canaries([{n: v for n, v in CANARY.items() if n != missing}], 3, 2, "m")


@pytest.mark.parametrize("name", ["packages", "cpu"])
def test_an_odd_environment_is_refused(name):
    for odd in ODD:
        environment = {"cpu": "x86", "packages": {"torch": "2"}} | {name: odd}
        if (name == "cpu" and isinstance(odd, str)) or (name == "packages" and type(odd) is dict):
            parse_libraries(environment, "m")
        else:
            with pytest.raises(FormatError, match="environment"):
                parse_libraries(environment, "m")
    for odd in (value for value in ODD if not isinstance(value, str)):
        with pytest.raises(FormatError, match="torch"):
            parse_libraries({"packages": {"torch": odd}}, "m")
