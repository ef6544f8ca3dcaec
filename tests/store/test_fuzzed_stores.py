"""Stores that somebody else made end in an `FKDError` or are used as they are. See drill/stores.py.

At its goal a block of examples follows another; here are a few, and the changes that were found.
"""

from pathlib import Path

import pytest

from drill import stores as fuzzer
from drill.golden import KINDS, make_images, make_stores
from fkd.store import convert_store

SMALL, GOAL = 12, 100_000


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    images = make_images(folder / "images")
    return images, make_stores(folder / "stores", images)


@pytest.mark.parametrize("kind", KINDS)
def test_unchanged_stores_pass_every_use(made, tmp_path, kind):
    """Else the drill would try refusals only."""
    images, stores = made
    refused = {"convert to compact", "convert to plain", "convert to hard", "data set"}
    refused = {"map": refused, "recomputed": set(), "compact": set()}.get(kind, set())
    if kind == "separate":
        refused = {"convert to compact", "convert to hard"}
    if "features" in kind:
        refused = {"convert to hard"}
    if kind == "plain logits":
        refused = {"convert to compact"}
    fuzzer.Draft.read(stores[kind]).write(stores[kind])  # which changes nothing
    for use, action in fuzzer.uses(stores[kind], tmp_path, images).items():
        if use in refused:
            with pytest.raises(fuzzer.FKDError):
                action()
        else:
            assert action() in ([], None) or use.startswith(("convert", "canaries"))


@pytest.mark.drill("G6", "stores changed under checksums that fit", failing="untyped")
@pytest.mark.parametrize("part", range(4))
def test_changed_stores_end_in_typed_errors(drill, tmp_path, part):
    examples = drill.times(SMALL, goal=GOAL) // 4
    for number, first in enumerate(range(0, examples, fuzzer.BLOCK)):
        count = min(fuzzer.BLOCK, examples - first)
        found = fuzzer.run_block(count, 1_000_000 * part + number, tmp_path / str(number))
        assert found.kinds == {}
        drill.tried(found.examples)


CHANGES = {
    "input size": ("config", ("teachers", 0, "input_size"), [None, -1, 0, 10**8, "224", 1.5, ...]),
    "interpolation": ("config", ("teachers", 0, "interpolation"), [None, "x", 3, ...]),
    "license": ("config", ("teachers", 0, "license"), [None, 3, [], "x", ...]),
    "standardization": (
        "config",
        ("teachers", 0, "standardization"),
        [None, [], [0], [0, 0], [0, -1.0], ["a", 1], [0, 1], [10**400, 1], {}],
    ),
    "teacher": ("config", ("teachers", 0), [None, [], "x", ...]),
    "teachers": ("config", ("teachers",), [None, {}, [], (2_000,), ...]),
    "decoder": ("config", ("decoder",), [None, [], "x", ...]),
    "numerics": ("config", ("numerics",), [None, [], "x", {"autocast": "x"}, ...]),
    "canaries": ("manifest", ("canaries",), [None, {}, [None], (2_000,), ...]),
    "row": ("manifest", ("canaries", 0, "row"), [None, -1, 5, 10**30, "0", ...]),
    "crop": ("manifest", ("canaries", 0, "crop"), [None, -1, 4, 10**30, "0", ...]),
    "thumbnail": ("manifest", ("canaries", 0, "thumbnail"), [None, "", "AAAA", "\u00e9", 7, ...]),
    "environment": ("manifest", ("environment",), [None, [], {"packages": None}, {"cpu": 1}, ...]),
    "images": ("config", ("num_images",), [0, 2**39, 2**64, 10**30]),
    "crops": ("config", ("num_crops",), [0, 3, 5, 2**23, 2**64, 10**30]),
    "codec": ("config", ("codec",), ["top:2", "top:1*2", "ms:3", "ms:" + "9" * 5000, "hard"]),
    "extras": ("config", ("extras", "jitter", "shape"), [[2**16] * 4, [3], []]),
    "shard bytes": ("manifest", ("shards", 0, "bytes"), [0, 2**63, 10**30]),
    "seed": ("config", ("crops", "seed"), [None, 10**30, "x"]),
}


@pytest.mark.parametrize("kind", ["plain", "recomputed"])
@pytest.mark.parametrize("change", CHANGES)
def test_changes_that_ended_in_other_errors(made, tmp_path, change, kind):
    images, stores = made
    part, path, values = CHANGES[change]
    for number, value in enumerate(values):
        draft = fuzzer.Draft.read(stores[kind])
        try:
            fuzzer.put(draft.parts()[part], path, value)
        except KeyError:
            pytest.skip("this kind of store has no such member")
        store, out = tmp_path / f"s{number}", tmp_path / f"o{number}"
        fuzzer.shutil.copytree(stores[kind], store)
        draft.write(store)
        found = fuzzer.Findings()
        with fuzzer.limits():
            fuzzer.try_store(store, out, images, f"{change} {value!r:.60}", found)
        assert found.kinds == {}


VALUES = {
    "probability of 5": ("plain f32", "label.value", b"\0\0\xa0\x40"),
    "infinite probability": ("plain f32", "label.value", b"\0\0\x80\x7f"),
    "probability that is NaN": ("plain f32", "label.value", b"\0\0\xc0\x7f"),
    "negative probability": ("plain f32", "label.value", b"\0\0\x80\xbf"),
    "logit that is NaN": ("plain logits", "label.value", b"\0\x7e"),
    "class id beyond the classes": ("plain", "label.index", b"\6\0"),
    "box of size 0": ("plain", "crop.box", b"\0\0"),
    "box outside the image": ("plain", "crop.box", b"\xff\xff"),
    "status of no meaning": ("plain", "image.status", b"\7"),
    "image without pixels": ("recomputed", "image.size", b"\0\0\0\0"),
    "parameters that nobody draws": ("plain", "crop.extra.jitter", b"\0\0\xc0\x7f"),
    "operation that nobody draws": ("plain", "crop.extra.rand_op", b"\xff"),
}


@pytest.mark.parametrize("value", VALUES)
def test_impossible_values_are_refused_by_every_use_that_needs_them(made, tmp_path, value):
    images, stores = made
    kind, column, pattern = VALUES[value]
    draft = fuzzer.Draft.read(stores[kind])
    fuzzer.overwrite(draft, 0, column, 0, pattern, 10**6)
    store = fuzzer.shutil.copytree(stores[kind], tmp_path / "s")
    draft.write(store)
    found = fuzzer.Findings()
    fuzzer.try_store(store, tmp_path / "out", images, value, found)
    assert found.kinds == {}
    actions = fuzzer.uses(store, tmp_path / "again", images)
    for use in ("data set", "view"):
        with pytest.raises(fuzzer.FKDError):
            actions[use]()
    if column.startswith("crop.extra"):
        return  # the store does not know what they mean
    assert actions["verify"]()
    with pytest.raises(fuzzer.FKDError):
        convert_store(store, tmp_path / "converted", form="plain")


def test_the_drill_itself_says_what_it_found(tmp_path, monkeypatch):
    """Else it would find nothing because it looks at nothing."""
    monkeypatch.setattr(fuzzer, "uses", lambda *given: {"divide": lambda: 1 // 0})
    found = fuzzer.run_block(3, 0, tmp_path)
    (kind,) = found.kinds
    assert "divide: ZeroDivisionError" in kind
    outside = Path("/etc/hostname")
    monkeypatch.setattr(fuzzer, "uses", lambda *given: {"look": outside.read_bytes})
    assert "opened outside: /etc/hostname" in fuzzer.run_block(1, 0, tmp_path / "b").kinds
