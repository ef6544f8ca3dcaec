"""Stores in another form: the same labels, or fewer, and the same bytes however often begun."""

import os
import signal
from functools import partial

import numpy as np
import pytest

from fkd.errors import ConfigError, FormatError, StoreMismatch
from fkd.labels.codec_names import parse_codec
from fkd.labels.codecs import decode
from fkd.store import (
    LabelStore,
    convert_store,
    files,
    form_members,
    repair_store,
    verify_store,
)


def make(lab, path, **options):
    """A plain store whose boxes are those that its config draws, as `fkd label` makes it."""
    drawn = lab.Job(form="recomputed", **options)
    plain = lab.Job(**options, crops=drawn.config["crops"])
    plain.content = drawn.content
    plain.run(path)
    return LabelStore.open(path)


def require_same_crops(a: LabelStore, b: LabelStore) -> None:
    rows = np.flatnonzero(a.labeled(np.arange(a.num_images)))
    crops = np.broadcast_to(np.arange(b.num_crops), (len(rows), b.num_crops))
    ours, theirs = a.read(rows, crops), b.read(rows, crops)
    np.testing.assert_array_equal(ours.records.box, theirs.records.box)
    np.testing.assert_array_equal(ours.records.flip, theirs.records.flip)
    for name, values in ours.records.extra.items():
        np.testing.assert_array_equal(values, theirs.records.extra[name])
    np.testing.assert_array_equal(ours.images.crc32, theirs.images.crc32)
    assert a.keys() == b.keys()


@pytest.fixture
def plain(lab, tmp_path):
    return make(lab, tmp_path / "plain", extras=lab.JITTER)


def test_compact_and_back(plain, tmp_path):
    there = convert_store(plain.path, tmp_path / "compact")
    back = convert_store(there.after.path, tmp_path / "back", form="plain")
    for store in (there.after, back.after):
        assert verify_store(store.path) == []
        require_same_crops(plain, store)
        assert store.canaries == plain.canaries
        assert store.environment == plain.environment
        assert store.images([3]).status.tolist() == [1]
    assert there.after.config["geometry"] == "recomputed"
    assert there.comparison.top1_agreement == 1.0
    assert there.comparison.num == 18 * 3
    assert 0 < there.comparison.mean_kl < 2e-5
    assert back.comparison.mean_kl < 1e-8
    assert there.after.config["converted_from"] == plain.root_hash
    assert back.after.config == plain.config | {"converted_from": there.after.root_hash}


def test_boxes_that_nobody_can_draw_again_are_stored(lab, tmp_path):
    lab.Job().run(tmp_path / "a")  # no generator named
    drawn = lab.Job(form="recomputed").config["crops"]
    lab.Job(crops=drawn).run(tmp_path / "b")  # other boxes than the config draws
    from_keys = {name: value for name, value in drawn.items() if name != "drawn_from"}
    lab.Job(crops=from_keys).run(tmp_path / "c")  # as they were drawn at first
    for name in ("a", "b", "c"):
        done = convert_store(tmp_path / name, tmp_path / f"{name} compact")
        assert done.after.config["geometry"] == "stored"
        assert verify_store(done.after.path) == []
        require_same_crops(done.before, done.after)


def test_a_second_conversion_writes_the_same_bytes(lab, plain, tmp_path):
    for name in ("a", "b"):
        convert_store(plain.path, tmp_path / name)
    assert lab.folder_digest(tmp_path / "a") == lab.folder_digest(tmp_path / "b")
    convert_store(plain.path, tmp_path / "b")
    assert lab.folder_digest(tmp_path / "a") == lab.folder_digest(tmp_path / "b")
    with pytest.raises(StoreMismatch, match="num_crops"):
        convert_store(plain.path, tmp_path / "b", num_crops=2)


def test_killed_at_any_write_and_begun_again(lab, plain, tmp_path, monkeypatch):
    convert_store(plain.path, tmp_path / "whole")
    expected, call = lab.folder_digest(tmp_path / "whole"), files.call
    kills, at, code = 0, 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        writes = iter(range(at))

        def dying(function, *args, writes=writes, **kwargs):
            if function is os.link and next(writes, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(function, *args, **kwargs)

        path = tmp_path / str(at)
        with monkeypatch.context() as patch:
            patch.setattr(files, "call", dying)
            child = lab.fork(partial(convert_store, plain.path, path))
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        convert_store(plain.path, path)
        assert lab.folder_digest(path) == expected
        kills, at = kills + (code == -signal.SIGKILL), at + 1
    assert kills == 8  # config, three shards with their commits, manifest


@pytest.mark.parametrize("inside", ["small", "shards", "a/b"])
def test_no_store_is_written_into_another(plain, tmp_path, inside):
    """`fkd verify` would then find the store that was read damaged."""
    with pytest.raises(FormatError, match=r"would lie in the store .*give a folder beside it"):
        convert_store(plain.path, plain.path / inside, form="plain")
    assert verify_store(plain.path) == []
    assert not (plain.path / inside.partition("/")[0] / "config.json").exists()


def test_a_damaged_shard_is_converted_again(lab, plain, tmp_path):
    path = convert_store(plain.path, tmp_path / "c").after.path
    before = lab.folder_digest(path)
    shard = path / "shards/00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    moved = repair_store(path)
    convert_store(plain.path, path)
    assert verify_store(path) == []
    for name in moved:
        (path / name).unlink()
    (path / "quarantine").rmdir()
    assert lab.folder_digest(path) == before


def test_the_first_crops_are_kept(lab, plain, tmp_path):
    for form in ("compact", "plain"):
        done = convert_store(plain.path, tmp_path / f"2 {form}", form=form, num_crops=2)
        assert done.after.num_crops == 2
        require_same_crops(plain, done.after)
        assert verify_store(done.after.path) == []
        assert done.comparison.top1_agreement == 1.0
    assert convert_store(plain.path, tmp_path / "1", num_crops=1).after.canaries == ()


DERIVED = [
    ("ms:4", "ms:2"),
    ("ms:4", "mr:3"),
    ("ms:4", "hard"),
    ("ms:4", "smoothing"),
    ("mr:4", "mr:2"),
    ("mr:4", "hard"),
    ("smoothing", "hard"),
    ("full", "ms:4"),
    ("full", "mr:2"),
    ("full", "hard"),
    ("full", "smoothing"),
]


@pytest.mark.parametrize(("old", "new"), DERIVED, ids=lambda codec: codec)
@pytest.mark.parametrize("form", ["plain", "compact"])
def test_smaller_codecs_are_derived(lab, tmp_path, old, new, form):
    before = make(lab, tmp_path / "a", codec=old, value_dtype="f32", num_images=9)
    after = convert_store(before.path, tmp_path / "b", form=form, codec=new).after
    assert after.codec.name == new
    rows = np.arange(3)
    ours, theirs = before.read(rows), after.read(rows)
    k = after.codec.num_ids(10)
    if ours.label.ids is None:
        label = decode(before.codec, ours.label, 10).numpy()
        order = np.argsort(-label, axis=1, kind="stable")[:, :k].reshape(3, 3, k)
        p = np.take_along_axis(label.reshape(3, 3, 10), order, axis=2)
    else:
        order, p = ours.label.ids[..., :k], ours.label.values[..., :k]
    np.testing.assert_array_equal(theirs.label.ids, order)
    if new == "hard":
        assert theirs.label.values is None
    else:
        if form == "compact" and new.startswith("mr"):
            p = p / p.sum(axis=2, keepdims=True)
        np.testing.assert_allclose(theirs.label.values, p, atol=1e-6 if form == "plain" else 4e-3)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ms:2", "ms:3"),
        ("mr:3", "ms:2"),
        ("mr:3", "smoothing"),
        ("hard", "smoothing"),
        ("ms:2", "full"),
        ("logits", "ms:2"),
        ("full", "logits"),
        ("sigmoid", "full"),
        ("full", "sigmoid:2"),
        ("logits", "sigmoid"),
    ],
)
def test_what_labels_do_not_hold_is_refused(lab, tmp_path, old, new):
    value_dtype = "f16" if "logits" in (old, new) else "u16"
    make(lab, tmp_path / "a", codec=old, value_dtype=value_dtype, num_images=4)
    with pytest.raises(ConfigError, match=f"labels of codec {old} do not hold what {new} needs"):
        convert_store(tmp_path / "a", tmp_path / "b", codec=new)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("old", ["sigmoid", "sigmoid:6"])
def test_fewer_sigmoids_are_derived(lab, tmp_path, old):
    """The rest takes in what is dropped, so that the mean over all classes stays."""
    lab.Job(codec=old, value_dtype="f32", num_images=9).run(tmp_path / "a")
    before = LabelStore.open(tmp_path / "a")
    done = convert_store(before.path, tmp_path / "b", form="plain", codec="sigmoid:2")
    assert verify_store(tmp_path / "b") == []
    assert done.comparison.top1_agreement == 1.0
    was, now = (
        store.codec.targets(store.read(np.arange(3)).label, 10).dense()
        for store in (before, done.after)
    )
    top = was.topk(2)
    np.testing.assert_allclose(now.gather(1, top.indices), top.values, atol=1e-6)
    np.testing.assert_allclose(now.sum(1), was.sum(1), atol=1e-5)


def test_sigmoids_are_packed_only_where_all_are_kept(lab, tmp_path):
    before = make(lab, tmp_path / "a", codec="sigmoid", value_dtype="u16", num_images=9)
    done = convert_store(before.path, tmp_path / "b", form="compact")
    assert (done.comparison.max_kl, done.after.codec.name) == (0.0, "sigmoid")
    with pytest.raises(ConfigError, match="labels of codec sigmoid:2 have no compact form"):
        convert_store(before.path, tmp_path / "c", form="compact", codec="sigmoid:2")
    lab.Job(codec="sigmoid:3", num_images=4).run(tmp_path / "d")
    for new in ("sigmoid:4", "sigmoid", "ms:2", "hard"):
        with pytest.raises(ConfigError, match=f"labels of codec sigmoid:3 do not hold what {new}"):
            convert_store(tmp_path / "d", tmp_path / "e", form="plain", codec=new)


@pytest.mark.parametrize("num_crops", [0, -1, 4])
def test_crops_that_are_not_there_are_refused(plain, tmp_path, num_crops):
    with pytest.raises(ConfigError, match="has 1 to 3 crops per image"):
        convert_store(plain.path, tmp_path / "b", num_crops=num_crops)


@pytest.mark.parametrize("codec", ["full", "logits"])
@pytest.mark.parametrize("value_dtype", ["f16", "f32"])
def test_labels_of_all_classes_are_kept_as_they_are(lab, tmp_path, codec, value_dtype):
    make(lab, tmp_path / "a", codec=codec, value_dtype=value_dtype)
    done = convert_store(tmp_path / "a", tmp_path / "b")
    rows = np.arange(3)
    ours, theirs = done.before.read(rows).label, done.after.read(rows).label
    np.testing.assert_array_equal(theirs.values, ours.values)
    assert done.comparison.mean_kl == 0.0
    assert done.after.num_bytes < done.before.num_bytes


@pytest.mark.parametrize("form", ["plain", "compact"])
def test_values_become_whole_numbers_with_a_scale_and_stay_so(lab, tmp_path, form):
    before = make(lab, tmp_path / "a", codec="logits", value_dtype="f32", num_classes=200)
    there = convert_store(before.path, tmp_path / "b", form=form, value_dtype="i8")
    assert verify_store(there.after.path) == []
    assert there.after.config["value_dtype"] == "i8"
    assert there.after.num_bytes < 0.4 * before.num_bytes
    assert 0 < there.comparison.max_kl < 1e-3
    again = convert_store(there.after.path, tmp_path / "c", form="plain")
    assert again.after.config["value_dtype"] == "i8"
    assert again.comparison.max_kl == 0.0
    rows = np.arange(3)
    ours, theirs = (store.read(rows).label.values for store in (there.after, again.after))
    np.testing.assert_array_equal(ours, theirs)
    back = convert_store(there.after.path, tmp_path / "d", form="plain", value_dtype="f32")
    np.testing.assert_array_equal(back.after.read(rows).label.values, ours)


def test_features_are_compared_by_their_cosine(lab, tmp_path):
    lab.Job(codec="logits", value_dtype="f32", num_classes=64, outputs="features").run(
        tmp_path / "a"
    )
    done = convert_store(tmp_path / "a", tmp_path / "b", form="plain", value_dtype="i8")
    assert done.comparison.num == 18 * 3
    assert done.comparison.least_cosine > 0.999
    assert done.after.config["outputs"] == "features"
    assert not done.after.is_of_classes


@pytest.mark.parametrize("codec", ["full", "ms:4", "logits:3"])
def test_values_of_other_codecs_have_no_scale(lab, tmp_path, codec):
    value_dtype = "f32"
    lab.Job(codec=codec, value_dtype=value_dtype, num_images=4).run(tmp_path / "a")
    with pytest.raises(ConfigError, match="value_dtype: i8 is for codec logits"):
        convert_store(tmp_path / "a", tmp_path / "b", form="plain", value_dtype="i8")
    assert not (tmp_path / "b").exists()


def test_values_that_would_become_infinite_are_refused(lab, tmp_path):
    job = lab.Job(codec="logits", value_dtype="f32", num_images=4)
    content = job.content

    def huge(number):
        crops = content(number)
        crops.label.values[1, 1, 1] = -70_000.0
        return crops

    job.content = huge
    job.run(tmp_path / "a")
    with pytest.raises(ConfigError, match="the value 70000, which f16 does not hold; use f32"):
        convert_store(tmp_path / "a", tmp_path / "b", form="plain", value_dtype="f16")
    done = convert_store(tmp_path / "a", tmp_path / "c", form="plain", value_dtype="i8")
    assert verify_store(done.after.path) == []


def test_label_maps_are_not_converted(lab, tmp_path):
    lab.Job(form="map").run(tmp_path / "maps")
    with pytest.raises(ConfigError, match=r"holds label maps.*label-maps --top_k"):
        convert_store(tmp_path / "maps", tmp_path / "other")
    assert not (tmp_path / "other").exists()


SEPARATE = [
    ("ms:4*2", "ms:2*2"),
    ("ms:4*2", "mr:3*2"),
    ("ms:4*3", "hard*3"),
    ("full*2", "ms:3*2"),
    ("full*2", "smoothing*2"),
    ("logits:4*2", "ms:2*2"),
    ("mr:4*2", "mr:2*2"),
]


@pytest.mark.parametrize(("old", "new"), SEPARATE, ids=lambda codec: codec)
def test_labels_of_several_teachers_are_made_smaller_one_by_one(lab, tmp_path, old, new):
    """Each teacher's label is what it would be in a store of that teacher alone."""
    count = int(old[-1])
    teachers = [{"name": f"teacher {i}", "weight": 1.0 + i} for i in range(count)]
    options = {"num_images": 9, "value_dtype": "f32", "teachers": teachers}
    if old.startswith("logits"):
        options["value_dtype"] = "f16"
    lab.Job(codec=old, **options).run(tmp_path / "a")
    before = LabelStore.open(tmp_path / "a")
    after = convert_store(before.path, tmp_path / "b", form="plain", codec=new).after
    assert verify_store(after.path) == []
    assert after.codec.name == new
    assert after.codec.weights == before.codec.weights == tuple(t["weight"] for t in teachers)
    rows = np.arange(3)
    ours, theirs = before.read(rows).label, after.read(rows).label
    pairs = zip(before.codec.split(ours), after.codec.split(theirs), strict=True)
    for label, smaller in pairs:
        k = after.codec.codec.num_ids(10)
        if label.ids is None or old.startswith("logits"):
            dense = decode(before.codec.codec, label, 10).numpy()
            kept = np.argsort(-dense, axis=1, kind="stable")[:, :k]
        else:  # in the order of their probabilities
            kept = label.ids[..., :k].reshape(-1, k)
        np.testing.assert_array_equal(smaller.ids.reshape(-1, k), kept)


def test_one_label_of_several_teachers_says_how_to_write_it(lab, tmp_path):
    teachers = [{"weight": 1.0}] * 2
    lab.Job(codec="ms:4*2", teachers=teachers, num_images=4).run(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"of each teacher write ms:2\*2"):
        convert_store(tmp_path / "a", tmp_path / "b", form="plain", codec="ms:2")
    with pytest.raises(ConfigError, match="no compact form; use plain"):
        convert_store(tmp_path / "a", tmp_path / "b", codec="ms:2*2")
    with pytest.raises(ConfigError, match="do not hold what"):
        convert_store(tmp_path / "a", tmp_path / "b", form="plain", codec="ms:2*3")


@pytest.mark.parametrize("codec", ["ms:3", "mr:3", "smoothing"])
@pytest.mark.parametrize("value_dtype", ["u16", "f16", "f32"])
def test_a_value_type_that_a_compact_store_does_not_have_is_refused(codec, value_dtype):
    with pytest.raises(ConfigError, match=rf"value_dtype: .*{value_dtype}; leave it out, or use"):
        form_members("compact", parse_codec(codec), 10, value_dtype)
    form_members("compact", parse_codec("full"), 10, value_dtype)
    with pytest.raises(ConfigError, match=r"leave it out$"):
        form_members("plain", parse_codec("hard"), 10, value_dtype)
