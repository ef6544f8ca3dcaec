"""Sending stores and runs: to S3 (a real server on loopback), to folders, and what is refused."""

import importlib
import os
import shutil
import uuid

import fsspec
import pytest

from fkd.errors import (
    ConfigError,
    DamagedStore,
    FKDError,
    MissingLabel,
    NotThere,
    RemoteError,
    RunError,
    StoreMismatch,
)
from fkd.labeling.config import parse_shards
from fkd.remote import storage
from fkd.remote.addresses import parse_address
from fkd.remote.pull import pull
from fkd.remote.push import push
from fkd.remote.storage import StorageFolder
from fkd.store import LabelStore, verify_store
from fkd.store.manifest import shard_name
from tests.remote.test_pull import files_of

FIRST = shard_name(0)


@pytest.fixture
def memory() -> str:
    """An address in fsspec's memory that nothing else uses."""
    return f"memory://{uuid.uuid4().hex}/labels"


@pytest.fixture
def bucket(s3):
    """Address and options of a folder in an S3 bucket, and its file system."""
    import s3fs

    options = {"endpoint_url": s3}
    return parse_address("s3://labels/a"), options, s3fs.S3FileSystem(**options)


def stored(system, root="labels/a") -> dict[str, bytes]:
    system.invalidate_cache()
    return {p.removeprefix(f"{root}/"): system.cat_file(p) for p in system.find(root)}


class Uploads(list):
    """Names of the files that are sent."""


@pytest.fixture
def uploads(monkeypatch) -> Uploads:
    names, upload = Uploads(), StorageFolder.upload

    def recorded(self, source, item):
        names.append(item.name)
        upload(self, source, item)

    monkeypatch.setattr(StorageFolder, "upload", recorded)
    return names


def test_a_store_to_s3_and_back(bucket, label_store, tmp_path, uploads):
    address, options, system = bucket
    done = push(label_store.path, address, options=options)
    assert done.root_hash == label_store.root_hash
    assert done.num_bytes_sent == done.num_bytes
    assert stored(system) == files_of(label_store.path)
    some = pull(address, tmp_path / "here", shards=parse_shards("2:"), options=options)
    assert list(some.shards) == [2, 3]
    pull(address, tmp_path / "here", root_hash=done.root_hash, options=options)
    assert files_of(tmp_path / "here") == files_of(label_store.path)

    uploads.clear()
    assert push(label_store.path, address, options=options).num_bytes_sent == 0
    assert uploads == []


def test_a_push_that_was_stopped_resumes(bucket, label_store, tmp_path, uploads, monkeypatch):
    address, options, system = bucket
    real = StorageFolder.upload

    def stops(self, source, item):
        if item.name == shard_name(2):
            raise KeyboardInterrupt
        real(self, source, item)

    with monkeypatch.context() as patch:
        patch.setattr(StorageFolder, "upload", stops)
        with pytest.raises(KeyboardInterrupt):
            push(label_store.path, address, options=options, num_threads=1)
    there = stored(system)
    assert FIRST in there
    assert "manifest.json" not in there
    with pytest.raises(NotThere):
        pull(address, tmp_path / "here", options=options)
    uploads.clear()
    push(label_store.path, address, options=options)
    assert FIRST not in uploads
    assert shard_name(2) in uploads
    assert stored(system) == files_of(label_store.path)


def test_objects_with_other_bytes_are_sent_again(bucket, label_store, uploads):
    address, options, system = bucket
    push(label_store.path, address, options=options)
    data = system.cat_file(f"labels/a/{FIRST}")
    system.pipe_file(f"labels/a/{FIRST}", data[:-1] + b"?")
    uploads.clear()
    push(label_store.path, address, options=options)
    assert uploads == [FIRST]
    assert stored(system) == files_of(label_store.path)


def test_the_sum_of_an_object_in_several_parts_is_known(tmp_path, monkeypatch):
    """As S3 makes it: the MD5 sum of the sums of the parts, and their number."""
    import hashlib

    monkeypatch.setattr(storage, "_S3_PART", 7)
    path = tmp_path / "file"
    path.write_bytes(b"0123456789abcdefghij")
    sums = b"".join(hashlib.md5(part).digest() for part in (b"0123456", b"789abcd", b"efghij"))
    recorded = f"{hashlib.md5(sums).hexdigest()}-3"
    assert storage._md5_like(recorded, path) == recorded
    assert storage._md5_like(recorded, path.read_bytes()) == recorded
    empty = tmp_path / "empty"
    empty.touch()
    whole = hashlib.md5(b"").hexdigest()
    assert storage._md5_like(whole, empty) == whole


def test_errors_of_s3_are_told(bucket, label_store, s3_url, monkeypatch, tmp_path):
    address, options, _ = bucket
    with pytest.raises(NotThere, match="no such bucket"):
        push(label_store.path, parse_address("s3://nobody/a"), options=options)
    with pytest.raises(NotThere, match=r"neither manifest\.json"):
        pull(parse_address("s3://labels/nothing"), tmp_path / "x", options=options)
    nowhere = {
        "endpoint_url": "http://127.0.0.1:9",
        "config_kwargs": {"retries": {"max_attempts": 0}},
    }
    with pytest.raises(RemoteError, match="does not answer"):
        pull(address, tmp_path / "x", options=nowhere)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(RemoteError, match=r"there are no credentials.*AWS_ACCESS_KEY_ID"):
        pull(address, tmp_path / "x", options=options | {"skip_instance_cache": True})
    with pytest.raises(ConfigError, match=r"storage_options: .* cannot be opened.*no_such_option"):
        pull(address, tmp_path / "x", options={"no_such_option": 1})


def test_what_refuses_is_told_from_what_may_answer_later():
    cases = [
        (PermissionError("Forbidden"), RemoteError, "access is refused"),
        (OSError(28, "No space left on device"), RemoteError, "no space left"),
        (ConnectionResetError("reset"), storage.Transient, "does not answer"),
        (TimeoutError(), storage.Transient, "does not answer"),
        (OSError(16, "An error occurred (SlowDown)"), storage.Transient, "does not answer"),
        (RuntimeError("odd"), RemoteError, "odd"),
    ]
    for error, kind, text in cases:
        answer = storage._in_words(error, "s3://b/x")
        assert isinstance(answer, kind)
        assert text in str(answer)


@pytest.mark.parametrize("protocol", ["s3", "gs", "abfs", "oci"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(protocol, monkeypatch):
    def missing(url, **options):
        raise ImportError

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    packages = {"s3": r'"fkd\[remote\]"', "gs": "gcsfs", "abfs": "adlfs", "oci": "ocifs"}
    with pytest.raises(ConfigError, match=f"pip install {packages[protocol]}"):
        StorageFolder(parse_address(f"{protocol}://b/x"), {})


def test_without_fsspec_the_extra_is_named(monkeypatch):
    real = importlib.import_module

    def missing(name, *more):
        if name == "fsspec":
            raise ImportError
        return real(name, *more)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"fkd\[remote\]"):
        StorageFolder(parse_address("s3://b/x"), {})


def test_an_unknown_protocol_is_refused():
    with pytest.raises(ConfigError, match="nonsense:// cannot be opened"):
        StorageFolder(parse_address("nonsense://b/x"), {})


@pytest.mark.parametrize("kind", ["memory", "file", "folder"])
def test_a_store_to_other_places_and_back(kind, memory, label_store, tmp_path, uploads):
    there = {
        "memory": memory,
        "file": f"file://{tmp_path}/there",
        "folder": str(tmp_path / "there"),
    }[kind]
    push(label_store.path, parse_address(there))
    if kind != "memory":
        assert files_of(tmp_path / "there") == files_of(label_store.path)
    pull(parse_address(there), tmp_path / "here")
    assert files_of(tmp_path / "here") == files_of(label_store.path)
    uploads.clear()
    push(label_store.path, parse_address(there))
    assert uploads == []


def test_other_bytes_in_a_folder_are_sent_again(label_store, tmp_path, uploads):
    there = parse_address(str(tmp_path / "there"))
    push(label_store.path, there)
    path = tmp_path / "there" / FIRST
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    uploads.clear()
    push(label_store.path, there)
    assert uploads == [FIRST]
    assert verify_store(tmp_path / "there") == []


def test_what_killed_pushes_have_left_is_removed(label_store, tmp_path):
    """Also that of a file that has arrived since; `fkd verify` takes it for a stray."""
    there = tmp_path / "there"
    for name in (FIRST, "commits/00000.json", "manifest.json"):
        path = there / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f".tmp.{path.name}.0123abcd").write_bytes(b"half")
    (there / ".tmp.of-others.0123abcd").write_bytes(b"half")
    push(label_store.path, parse_address(str(there)))
    assert files_of(there).keys() - files_of(label_store.path).keys() == {".tmp.of-others.0123abcd"}


@pytest.mark.parametrize(
    "name", ["a::b", "a#b", "a?b", "a*b", "[a]", "a%20b", "a b", "file:x", "-a"]
)
def test_folders_of_any_name_are_those_that_are_filled(name, label_store, tmp_path):
    """fsspec would take "::" for one file system in another, and fill a folder "a"."""
    there = parse_address(f"{tmp_path}/{name}/labels")
    push(label_store.path, there)
    assert files_of(tmp_path / name / "labels") == files_of(label_store.path)
    pull(there, tmp_path / "here")
    assert os.listdir(tmp_path / name) == ["labels"]


def test_file_systems_inside_others_are_refused():
    with pytest.raises(ConfigError, match="has '::' in it"):
        parse_address("s3://bucket/a::b")


@pytest.mark.parametrize("name", ["photo.jpg", "cat/photo.jpg"])
def test_a_place_that_holds_something_else_is_refused(name, memory, label_store, run, tmp_path):
    """A store among photographs would be hard to tell from them."""
    (tmp_path / "photos" / name).parent.mkdir(parents=True)
    (tmp_path / "photos" / name).write_bytes(b"x")
    for source in (label_store.path, run):
        with pytest.raises(ConfigError, match=f"is not empty and holds no .*{name[:3]}.* is in it"):
            push(source, parse_address(str(tmp_path / "photos")))
    assert files_of(tmp_path / "photos") == {name: b"x"}
    (tmp_path / "photos" / "README.md").write_bytes(b"about")
    push(label_store.path, parse_address(str(tmp_path / "photos" / "labels")))


def test_places_that_cannot_be_written_are_told_without_buckets(label_store, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "file/below", "link"):
        with pytest.raises(RemoteError, match="give another place") as caught:
            push(label_store.path, parse_address(str(tmp_path / name)))
        assert "bucket" not in str(caught.value)
        assert "Errno" not in str(caught.value)


def test_options_mean_nothing_to_a_folder(label_store, tmp_path):
    with pytest.raises(ConfigError, match="storage_options: they mean nothing to a folder"):
        push(label_store.path, parse_address(str(tmp_path / "a")), options={"anon": True})


def test_a_failed_upload_leaves_nothing_behind(label_store, tmp_path, monkeypatch):
    from fsspec.implementations.local import LocalFileSystem

    def fails(self, *args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(LocalFileSystem, "mv", fails)
    with pytest.raises(RemoteError, match="access is refused"):
        push(label_store.path, parse_address(str(tmp_path / "there")))
    assert files_of(tmp_path / "there") == {}


def test_another_store_there_is_refused_with_both_hashes(
    memory, label_store, image_source, make_store, tmp_path
):
    other = make_store(tmp_path / "other", image_source, num_crops=3)
    push(other.path, parse_address(memory))
    with pytest.raises(StoreMismatch) as caught:
        push(label_store.path, parse_address(memory))
    assert other.root_hash in str(caught.value)
    assert label_store.root_hash in str(caught.value)
    fsspec.filesystem("memory").rm_file(f"{memory.removeprefix('memory:/')}/manifest.json")
    with pytest.raises(StoreMismatch, match=r"another config\.json"):
        push(label_store.path, parse_address(memory))


def test_a_run_is_not_sent_onto_another_run_or_a_store(run, label_store, tmp_path):
    there = tmp_path / "there"
    push(run, parse_address(str(there)))
    with pytest.raises(StoreMismatch, match="has a run: its root hash"):
        push(label_store.path, parse_address(str(there)))
    (there / "files.json").unlink()  # as of a push that was stopped
    (there / "config.yaml").write_text("seed: 7\n")
    with pytest.raises(StoreMismatch, match=r"config\.yaml: a push of another run was begun there"):
        push(run, parse_address(str(there)))
    push(label_store.path, parse_address(str(tmp_path / "store")))
    with pytest.raises(StoreMismatch, match="has a store: its root hash"):
        push(run, parse_address(str(tmp_path / "store")))


def test_what_is_damaged_or_unfinished_is_not_sent(memory, label_store, run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(label_store.path, copy)
    data = (copy / FIRST).read_bytes()
    (copy / FIRST).write_bytes(data[:-1] + b"?")
    with pytest.raises(DamagedStore, match=f"{FIRST} is missing or differs"):
        push(copy, parse_address(memory))
    (copy / FIRST).unlink()
    with pytest.raises(MissingLabel, match="3 of its 4 shards"):
        push(copy, parse_address(memory))
    (copy / "manifest.json").unlink()
    with pytest.raises(MissingLabel, match="not finished"):
        push(copy, parse_address(memory))
    (run / "model.safetensors").unlink()
    with pytest.raises(RunError, match="not finished"):
        push(run, parse_address(memory))
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ConfigError, match="source: "):
            push(folder, parse_address(memory))
    (root := memory.removeprefix("memory:/"))
    assert not fsspec.filesystem("memory").exists(f"{root}/manifest.json")


def test_a_run_with_and_without_its_checkpoints(memory, run, tmp_path):
    (run / "README.md").write_text("mine")
    (run / "metrics.jsonl.tmp").write_text("unfinished")
    push(run, parse_address(memory))
    pull(parse_address(memory), tmp_path / "here")
    everything = files_of(run)
    left_out = {"checkpoints/step-3.pt", "README.md", "metrics.jsonl.tmp"}
    assert set(everything) - set(files_of(tmp_path / "here")) == left_out
    with pytest.raises(StoreMismatch, match="another run"):
        push(run, parse_address(memory), checkpoints=True)
    push(run, parse_address(memory + "2"), checkpoints=True)
    pull(parse_address(memory + "2"), tmp_path / "full")
    assert files_of(tmp_path / "full")["checkpoints/step-3.pt"] == b"state"


def test_the_store_itself_and_web_servers_are_no_places_to_push_to(label_store):
    with pytest.raises(ConfigError, match="is the folder itself"):
        push(label_store.path, parse_address(str(label_store.path)))
    with pytest.raises(ConfigError, match="is the folder itself, or in it"):
        push(label_store.path, parse_address(str(label_store.path / "below")))
    with pytest.raises(ConfigError, match="is a web server, which takes no files"):
        push(label_store.path, parse_address("https://host/labels"))


@pytest.mark.parametrize("option", ["private", "revision", "replace"])
def test_options_of_the_hub_are_refused_elsewhere(option, memory, label_store):
    given = {"private": True, "revision": "v1", "replace": True}[option]
    with pytest.raises(ConfigError, match=f"{option}: .* no repository of the hub"):
        push(label_store.path, parse_address(memory), **{option: given})


def test_what_the_place_changes_is_found(memory, label_store, monkeypatch):
    real = StorageFolder.upload

    def changes(self, source, item):
        real(self, source, item)
        if item.name == FIRST:
            self._system.pipe_file(self._path(item.name), source.read_bytes()[:-1] + b"?")

    monkeypatch.setattr(StorageFolder, "upload", changes)
    with pytest.raises(RemoteError, match=f"{FIRST} has other bytes than were sent"):
        push(label_store.path, parse_address(memory))
    with pytest.raises(FKDError):
        LabelStore.open(memory)
