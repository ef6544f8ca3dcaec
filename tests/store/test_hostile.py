"""A store made to do harm is refused by a StoreError, and nothing outside its folder is touched.

Checksums are no defense here: who makes a store can make them fit, as `forge` does.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fkd.errors import FormatError, NewerFormat, StoreError
from fkd.store import LabelStore, StoreWriter, repair_store, shard, values, verify_store


def canonical(value) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def load(path) -> dict:
    """The manifest, and the config as its member "config"."""
    manifest = json.loads((path / "manifest.json").read_bytes())
    return manifest | {"config": json.loads((path / "config.json").read_bytes())}


def forge(path, change) -> None:
    """Change manifest and config, and make every checksum fit again as far as it can be."""
    manifest = load(path)
    config_id = manifest["config_id"]
    change(manifest)
    config = canonical(manifest.pop("config", None))
    if manifest.get("config_id") == config_id:
        manifest["config_id"] = sha256(config)
    del manifest["root_hash"]
    manifest["root_hash"] = sha256(canonical(manifest))
    (path / "manifest.json").write_bytes(canonical(manifest))
    (path / "config.json").write_bytes(config)


def forge_shard(path, number, change) -> None:
    """Replace a shard's bytes, and make its commit and the manifest fit."""
    name = f"shards/{number:05d}.safetensors"
    data = change((path / name).read_bytes())
    (path / name).write_bytes(data)
    header = data[: 8 + min(int.from_bytes(data[:8], "little"), len(data))]
    new = {"bytes": len(data), "sha256": sha256(data), "header_sha256": sha256(header)}
    commit = path / f"commits/{number:05d}.json"
    commit.write_bytes(canonical(json.loads(commit.read_bytes()) | new))
    forge(path, lambda manifest: manifest["shards"][number].update(new))


def use(path) -> None:
    store = LabelStore.open(path)
    repr(store)
    for row in range(min(store.num_images, 100)):
        key = store.keys([row])
        if store.images([row]).status[0] == 0:
            store.read(store.rows(key))


def require_refused(path) -> str:
    """Reading raises a StoreError, verify finds it; both within seconds."""
    signal.alarm(20)  # a FIFO must not make us wait without end
    try:
        with pytest.raises(StoreError) as caught:
            use(path)
        assert verify_store(path)
    finally:
        signal.alarm(0)
    return str(caught.value)


def put(*where, value):
    def change(manifest):
        target = manifest
        for name in where[:-1]:
            target = target[name]
        target[where[-1]] = value

    return change


def drop(*where):
    def change(manifest):
        target = manifest
        for name in where[:-1]:
            target = target[name]
        del target[where[-1]]

    return change


MANIFESTS = {
    "not ours": put("format", value="zip"),
    "no format": drop("format"),
    "no config": drop("config"),
    "config a list": put("config", value=[]),
    "no shards": put("shards", value=[]),
    "a shard too many": lambda m: m["shards"].append(m["shards"][-1]),
    "a shard twice": lambda m: m["shards"].__setitem__(1, m["shards"][0]),
    "shards swapped": lambda m: m["shards"].reverse(),
    "shard a number": put("shards", 0, value=7),
    "file outside": put("shards", 0, "file", value="../x"),
    "file absolute": put("shards", 0, "file", value="/etc/passwd"),
    "file hidden": put("shards", 0, "file", value="shards/../shards/00000.safetensors"),
    "file with NUL": put("shards", 0, "file", value="shards/00000\0.safetensors"),
    "file a list": put("shards", 0, "file", value=["x"]),
    "negative bytes": put("shards", 0, "bytes", value=-1),
    "no bytes": put("shards", 0, "bytes", value=0),
    "huge bytes": put("shards", 0, "bytes", value=2**63),
    "bytes a float": put("shards", 0, "bytes", value=1e6),
    "sha not hexadecimal": put("shards", 0, "sha256", value="z" * 64),
    "key not encoded": put("shards", 0, "first_key", value="a b"),
    "key empty": put("shards", 0, "first_key", value=""),
    "keys not ascending": put("shards", 0, "first_key", value="~"),
    "images elsewhere": put("shards", 1, "first_image", value=0),
    "images too many": put("shards", 0, "num_images", value=2**39),
    "2^60 images": put("config", "num_images", value=2**60),
    "2^39 images": put("config", "num_images", value=2**39),
    "2^23 crops": put("config", "num_crops", value=2**23),
    "a negative shard size": put("config", "images_per_shard", value=-8),
    "other classes": put("config", "num_classes", value=11),
    "class names of numbers": put("config", "class_names", value=list(range(10))),
    "an unknown codec": put("config", "codec", value="zip:5"),
    "a codec with a huge K": put("config", "codec", value="ms:" + "9" * 4000),
    "an unknown value type": put("config", "value_dtype", value="f64"),
    "extras a list": put("config", "extras", value=[]),
    "1000 extras": put("config", "extras", value={f"x{i}": {} for i in range(1000)}),
    "extras of a strange name": put("config", "extras", value={"../x": {}}),
    "an unknown field": put("more", value=1),
    "an unknown field of a shard": put("shards", 0, "more", value=1),
    "environment a list": put("environment", value=[]),
    "another config_id": put("config_id", value="0" * 64),
    "version 0": put("format_version", value=0),
    "version true": put("format_version", value=True),
    "version a float": put("format_version", value=1.0),
}


@pytest.mark.parametrize("change", MANIFESTS.values(), ids=MANIFESTS)
def test_forged_manifests_are_refused(store, change):
    forge(store, change)
    require_refused(store)


@pytest.mark.parametrize("where", [("format_version",), ("config", "format_version")])
def test_a_newer_format_says_upgrade(store, where):
    forge(store, put(*where, value=4))
    with pytest.raises(FormatError, match=r"format version 4 .* upgrade fkd"):
        LabelStore.open(store)


@pytest.mark.parametrize("name", ["manifest.json", "config.json", "commits/00000.json"])
@pytest.mark.parametrize(
    "data",
    [
        b"[" * 200_000 + b"]" * 200_000 + b"\n",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"\n",
        b'{"a":NaN}\n',
        b'{"a":1e999}\n',
        b'{"bytes":1,"bytes":2}\n',
        b'{"a":' + b"9" * 10_000 + b"}\n",
        b"\xff\xfe{}\n",
        b"null\n",
        b"",
    ],
    ids=["deep list", "deep object", "NaN", "infinite", "twice", "long", "UTF-16", "null", "empty"],
)
def test_strange_json_is_refused(store, name, data):
    (store / name).write_bytes(data)
    require_refused(store)


@pytest.mark.parametrize("name", ["manifest.json", "config.json", "commits/00000.json"])
def test_an_endless_small_file_is_not_read(store, name):
    os.truncate(store / name, 2**32)
    require_refused(store)


NAMES = ["manifest.json", "config.json", "commits/00000.json", "shards/00000.safetensors"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["dangling link", "device", "FIFO", "FIFO by a link", "folder"])
def test_only_plain_files_are_opened(store, tmp_path, name, kind):
    file, outside = store / name, tmp_path / "outside"
    shutil.move(file, outside)
    if kind == "dangling link":
        file.symlink_to(tmp_path / "nowhere")
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "FIFO by a link":
        os.mkfifo(tmp_path / "FIFO")
        file.symlink_to(tmp_path / "FIFO")
    elif kind == "FIFO":
        os.mkfifo(file)
    else:
        file.mkdir()
    assert "plain files only" in require_refused(store)


@pytest.mark.parametrize("name", NAMES)
def test_a_link_to_another_file_tells_nothing_of_it(store, tmp_path, name):
    """What it leads to is read, and must be what the checksums say."""
    secret = tmp_path / "secret"
    secret.write_text("root:x:0:0:" * 20)
    (store / name).unlink()
    (store / name).symlink_to(secret)
    message = require_refused(store)
    assert "root:x" not in message
    assert not any("root:x" in problem.message for problem in verify_store(store))


def test_a_store_of_links_is_read_and_verified(finished, tmp_path):
    """As the cache of a hub keeps it: every file is a link to ../../blobs/<hash>."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    for file in (path for path in finished.rglob("*") if path.is_file()):
        leaf = snapshot / file.relative_to(finished)
        leaf.parent.mkdir(parents=True, exist_ok=True)
        blob = blobs / sha256(os.fsencode(leaf))
        shutil.copy(file, blob)
        leaf.symlink_to(os.path.relpath(blob, leaf.parent))
    use(snapshot)
    assert verify_store(snapshot) == []


@pytest.mark.parametrize("folder", ["shards", "commits"])
def test_folders_may_not_lead_outside(job, store, tmp_path, folder):
    shutil.move(store / folder, tmp_path / "outside")
    (store / folder).symlink_to(tmp_path / "outside")
    require_refused(store)
    before = sorted(os.listdir(tmp_path / "outside"))
    with pytest.raises(StoreError):
        repair_store(store)
    with pytest.raises(StoreError):
        StoreWriter.open(store, job.config)
    assert sorted(os.listdir(tmp_path / "outside")) == before


def test_a_link_to_a_store_is_fine(finished, tmp_path):
    """Where the user's own path leads is the user's business."""
    (tmp_path / "link").symlink_to(finished)
    use(tmp_path / "link")
    assert verify_store(tmp_path / "link") == []


opened: list[str] | None = None


def note_opened(event: str, arguments: tuple) -> None:
    if opened is not None and event == "open":
        opened.append(os.fsdecode(arguments[0]))


sys.addaudithook(note_opened)


@pytest.mark.parametrize("forged", ["../x", "/etc/passwd", "shards/../../x", None])
def test_no_file_outside_the_folder_is_opened(store, tmp_path, forged):
    global opened
    (tmp_path / "x").write_bytes((store / "shards/00000.safetensors").read_bytes())
    if forged:
        forge(store, put("shards", 0, "file", value=forged))
    opened = []
    try:
        use(store)
    except StoreError:
        pass
    finally:
        names, opened = opened, None
    inside = {str(store), str(store / "shards"), str(store / "commits")}
    assert names
    for name in names:
        assert name in inside or ("/" not in name and name != "..")


def replace_header(change):
    def forged(data: bytes) -> bytes:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        change(header)
        text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text + data[8 + length :]

    return forged


def patch_column(name, values):
    """Overwrite the beginning of a column; the checksums of the rows stay as they were."""

    def forged(data: bytes) -> bytes:
        length = int.from_bytes(data[:8], "little")
        start = 8 + length + json.loads(data[8 : 8 + length])[name]["data_offsets"][0]
        return data[:start] + values + data[start + len(values) :]

    return forged


def swap_names(a, b):
    return lambda header: header.update({a: header[b], b: header[a]})


SHARDS = {
    "a huge header": lambda data: (2**63).to_bytes(8, "little") + data[8:],
    "an empty header": lambda data: (0).to_bytes(8, "little") + data[8:],
    "no header": lambda data: data[:8],
    "a header of a list": lambda data: (8).to_bytes(8, "little") + b"[]      " + data[8:],
    "a deep header": lambda data: (
        (100_000).to_bytes(8, "little") + b'{"a":'.ljust(100_000, b"[") + data
    ),
    "no keys": replace_header(lambda h: h.pop("key.bytes")),
    "no metadata": replace_header(lambda h: h.pop("__metadata__")),
    "another version": replace_header(lambda h: h["__metadata__"].update(version="4")),
    "another store": replace_header(lambda h: h["__metadata__"].update(config_id="0" * 64)),
    "another place": replace_header(lambda h: h["__metadata__"].update(first_image="8")),
    "offsets beyond the keys": patch_column("key.offset", b"\xff" * 36),
    "offsets backwards": patch_column("key.offset", bytes(range(36, 0, -1))),
    "offsets of nothing": patch_column("key.offset", bytes(36)),
}
PLAIN_SHARDS = {
    "a column less": replace_header(lambda h: h.pop("crop.flip")),
    "no boxes": replace_header(lambda h: h.pop("crop.box")),
    "columns swapped": replace_header(swap_names("label.index", "label.value")),
    "another dtype": replace_header(lambda h: h["label.value"].update(dtype="F16")),
    "another shape": replace_header(lambda h: h["label.value"].update(shape=[8, 2, 3])),
    "other ids": patch_column("label.index", b"\xff" * 96),
    "other boxes": patch_column("crop.box", b"\xff" * 192),
}
COMPACT_SHARDS = {
    "no records": replace_header(lambda h: h.pop("record.bytes")),
    "no offsets": replace_header(lambda h: h.pop("record.offset")),
    "small offsets": replace_header(lambda h: h["record.offset"].update(dtype="U32", shape=[18])),
    "records beyond the column": patch_column("record.offset", b"\xff" * 72),
    "records backwards": patch_column("record.offset", bytes(range(72, 0, -1))),
    "records of nothing": patch_column("record.offset", bytes(72)),
    "other records": patch_column("record.bytes", b"\xff" * 60),
}


@pytest.mark.parametrize("change", SHARDS.values(), ids=SHARDS)
def test_forged_shards_are_refused(store, change):
    forge_shard(store, 0, change)
    require_refused(store)


@pytest.mark.parametrize("form", ["plain"], indirect=True, scope="session")
@pytest.mark.parametrize("change", PLAIN_SHARDS.values(), ids=PLAIN_SHARDS)
def test_forged_plain_shards_are_refused(store, change):
    forge_shard(store, 0, change)
    require_refused(store)


COMPACT = pytest.mark.parametrize("form", ["compact", "recomputed"], indirect=True, scope="session")


@COMPACT
@pytest.mark.parametrize("change", COMPACT_SHARDS.values(), ids=COMPACT_SHARDS)
def test_forged_compact_shards_are_refused(store, change):
    forge_shard(store, 0, change)
    require_refused(store)


RECORDS = {
    "nothing": lambda record: b"",
    "half a head": lambda record: record[:3],
    "a byte less": lambda record: record[:-1],
    "a byte more": lambda record: record + b"\0",
    "all ones": lambda record: b"\xff" * len(record),
    "a huge dictionary": lambda record: record.replace(b"\6\0\0\0", b"\xff\xff\xff\xff", 1),
    "wide fields": lambda record: b"\x40" * 5 + record[5:],
}


@COMPACT
@pytest.mark.parametrize("change", RECORDS.values(), ids=RECORDS)
def test_forged_records_are_refused_although_checksums_fit(job, store, change, monkeypatch):
    honest = shard.pack_record
    with monkeypatch.context() as patch:
        patch.setattr(shard, "pack_record", lambda *given: change(honest(*given)))
        forged = shard.encode_shard(job.parsed, 0, *job.shard(0)).data
    forge_shard(store, 0, lambda data: forged)
    assert "packed record" in require_refused(store)


@pytest.mark.parametrize("form", ["recomputed"], indirect=True, scope="session")
def test_boxes_that_are_not_those_of_the_teacher_are_found_by_verify(job, store, monkeypatch):
    """As when another machine rounds in another way."""
    with monkeypatch.context() as patch:
        patch.setattr(shard, "geometry_crc32", lambda box, flip: np.ones(len(box)))
        forged = shard.encode_shard(job.parsed, 0, *job.shard(0)).data
    forge_shard(store, 0, lambda data: forged)
    (problem,) = verify_store(store)
    assert "not those that were labeled" in problem.message


@COMPACT
def test_records_with_holes_between_them_are_found_by_verify(job, store, monkeypatch):
    honest = shard._packed_arrays

    def with_hole(*given):
        columns = honest(*given)
        return columns | {"record.bytes": np.append(columns["record.bytes"], np.uint8(7))}

    with monkeypatch.context() as patch:
        patch.setattr(shard, "_packed_arrays", with_hole)
        forged = shard.encode_shard(job.parsed, 0, *job.shard(0)).data
    forge_shard(store, 0, lambda data: forged)
    (problem,) = verify_store(store)
    assert "do not fill their column" in problem.message


def test_a_header_that_does_not_begin_with_a_brace_is_refused(store):
    """Stock safetensors would refuse it too; space before the brace makes polyglot files."""

    def forged(data):
        length = int.from_bytes(data[:8], "little")
        return (length + 8).to_bytes(8, "little") + b" " * 8 + data[8:]

    forge_shard(store, 0, forged)
    assert "does not begin with" in require_refused(store)


def with_checksums(job, content_change):
    """The bytes of shard 0 as a dishonest writer makes them: bad labels, good checksums."""
    honest = shard.check_content
    shard.check_content = lambda config, keys, crops: None
    try:
        keys, crops = job.shard(0)
        return shard.encode_shard(job.parsed, 0, keys, content_change(crops)).data
    finally:
        shard.check_content = honest


def test_class_ids_that_do_not_exist_are_refused_although_checksums_fit(job, store):
    """A decoder would write outside its arrays."""

    def change(content):
        content.label.ids[:] = 10
        return content

    forged = with_checksums(job, change)
    forge_shard(store, 0, lambda data: forged)
    assert "class id" in require_refused(store)


def test_boxes_outside_and_values_of_nan_are_found_by_verify(lab, tmp_path):
    for name in ("box", "value"):

        def change(content, name=name):
            if name == "box":
                content.records.box[..., 2] = 5000
            else:
                content.label.values[:] = np.nan
            return content

        job = lab.Job(value_dtype="f32")
        job.run(tmp_path / name)
        forged = with_checksums(job, change)
        forge_shard(tmp_path / name, 0, lambda data, forged=forged: forged)
        (problem,) = verify_store(tmp_path / name)
        assert problem.file == "shards/00000.safetensors"
        assert name in problem.message


def test_a_label_that_names_a_class_twice_is_not_handed_on(lab, tmp_path):
    """Its other classes would get probabilities below 0."""
    job = lab.Job(codec="ms:3", unreadable=False)
    job.run(tmp_path / "store")

    def change(content):
        content.label.ids[1, 0, 2] = content.label.ids[1, 0, 0]
        return content

    forged = with_checksums(job, change)
    forge_shard(tmp_path / "store", 0, lambda data: forged)
    with pytest.raises(FormatError, match="a label names a class twice"):
        LabelStore.open(tmp_path / "store").read(np.arange(4))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 5.0, -0.25, 1.01])
def test_numbers_that_are_no_probabilities_are_not_handed_on(lab, tmp_path, value):
    job = lab.Job(value_dtype="f32", unreadable=False)
    job.run(tmp_path / "store")

    def change(content):
        content.label.values[2, 0, 0] = value
        return content

    forged = with_checksums(job, change)
    forge_shard(tmp_path / "store", 0, lambda data: forged)
    store = LabelStore.open(tmp_path / "store")
    with pytest.raises(FormatError, match=r"a label value is (no probability|NaN or infinite)"):
        store.read(np.arange(4))


@pytest.mark.parametrize("form", ["plain", "recomputed"])
@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, -0.5, 3e38])
def test_forged_scales_are_not_handed_on(lab, tmp_path, monkeypatch, form, scale):
    job = lab.Job(codec="logits", value_dtype="i8", unreadable=False, form=form)
    job.run(tmp_path / "store")
    honest = values.quantize_rows

    def forge_scale(rows):
        stored, scales = honest(rows)
        scales[..., 0] = scale
        return stored, scales

    with monkeypatch.context() as patch:
        patch.setattr(values, "quantize_rows", forge_scale)
        forged = with_checksums(job, lambda content: content)
    forge_shard(tmp_path / "store", 0, lambda data: forged)
    said = require_refused(tmp_path / "store")
    assert said.startswith(str(tmp_path / "store"))
    assert "the scale of a label is negative, NaN or too large; get the store again" in said


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def members(value, prefix=()):
    """Where in the manifest something can be replaced."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for name, inner in items:
        yield (*prefix, name)
        if isinstance(inner, (dict, list)):
            yield from members(inner, (*prefix, name))


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_json_in_any_place_raises_nothing_else(store, finished, data):
    where = data.draw(st.sampled_from(list(members(load(finished)))))
    for name in ("manifest.json", "config.json"):
        shutil.copy(finished / name, store / name)
    forge(store, put(*where, value=data.draw(json_values)))
    try:
        use(store)
    except NewerFormat:
        with suppress(NewerFormat):  # of which nothing can be said
            verify_store(store)
    except StoreError:
        verify_store(store)
