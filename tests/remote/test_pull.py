"""Fetching stores and runs: what is resumed, compared, and refused."""

import json
import shutil
import threading
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from fkd.errors import ConfigError, FKDError, NotThere, RemoteError, StoreMismatch
from fkd.labeling.config import parse_shards
from fkd.remote import parts
from fkd.remote.addresses import parse_address
from fkd.remote.pull import pull
from fkd.remote.push import push
from fkd.store import LabelStore, verify_store
from fkd.store.locks import WriterLock
from fkd.store.manifest import shard_name
from tests.remote.conftest import Fault, serving

FIRST = shard_name(0)


def fetch(web, folder, **options):
    return pull(parse_address(web.url), folder, **options)


def files_of(folder: Path) -> dict[str, bytes]:
    """Bytes by name."""
    found = {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }
    return {name: data for name, data in found.items() if name != "lock"}


def test_a_store_comes_from_any_web_server_with_the_same_bytes(served_store, label_store, tmp_path):
    seen = []
    done = fetch(
        served_store, tmp_path / "here", progress=lambda at, total: seen.append((at, total))
    )
    assert files_of(tmp_path / "here") == files_of(label_store.path)
    assert done.root_hash == label_store.root_hash == LabelStore.open(tmp_path / "here").root_hash
    assert verify_store(tmp_path / "here") == []
    assert seen[-1] == (label_store.num_bytes, label_store.num_bytes)
    assert done.num_bytes == label_store.num_bytes


def test_what_is_there_is_not_fetched_again(served_store, tmp_path):
    fetch(served_store, tmp_path / "here")
    (tmp_path / "here" / FIRST).unlink()
    served_store.requests.clear()
    done = fetch(served_store, tmp_path / "here")
    assert dict(served_store.requests) == {"manifest.json": 1, "config.json": 1, FIRST: 1}
    assert done.num_files == 1
    assert done.num_bytes_there > 0


def test_a_damaged_file_here_is_fetched_again(served_store, tmp_path):
    fetch(served_store, tmp_path / "here")
    path = tmp_path / "here" / FIRST
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert fetch(served_store, tmp_path / "here").num_files == 1
    assert verify_store(tmp_path / "here") == []


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_body_is_continued_or_fetched_again(served_store, tmp_path, ranges):
    served_store.ranges = ranges
    served_store.faults[FIRST] = Fault(2, cut=700)
    seen = []
    fetch(served_store, tmp_path / "here", progress=lambda at, total: seen.append(at / total))
    assert served_store.starts[FIRST] == [0, 700, 1400 if ranges else 700]
    assert seen[-1] == 1.0
    assert verify_store(tmp_path / "here") == []


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_a_busy_server_is_asked_again(served_store, tmp_path, status):
    served_store.faults |= {FIRST: Fault(2, status), "manifest.json": Fault(2, status)}
    fetch(served_store, tmp_path / "here")
    assert served_store.requests[FIRST] == served_store.requests["manifest.json"] == 3


@pytest.mark.parametrize("name", [FIRST, "manifest.json", "config.json"])
def test_a_server_that_stays_busy_is_named(served_store, tmp_path, name):
    served_store.faults[name] = Fault(99, 503)
    with pytest.raises(RemoteError, match=rf"{name}: the server answers with status 503, 4 times"):
        fetch(served_store, tmp_path / "here")
    assert not (tmp_path / "here" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("status", "error"),
    [(404, NotThere), (410, NotThere), (403, RemoteError), (401, RemoteError), (418, RemoteError)],
)
def test_what_will_not_change_is_not_tried_again(served_store, tmp_path, status, error):
    served_store.faults[FIRST] = Fault(99, status)
    lost = "has no {FIRST}, although its list .* push it there again"
    said = lost if error is NotThere else f"{FIRST}.*status {status}"
    with pytest.raises(error, match=said.format(FIRST=FIRST)):
        fetch(served_store, tmp_path / "here")
    assert served_store.requests[FIRST] == 1


def flip(data: bytes) -> bytes:
    return data[:500] + bytes([data[500] ^ 1]) + data[501:]


def test_other_bytes_are_found_and_fetched_once_more(served_store, tmp_path):
    served_store.faults[FIRST] = Fault(1, change=flip)
    fetch(served_store, tmp_path / "here")
    assert served_store.requests[FIRST] == 2
    assert verify_store(tmp_path / "here") == []


def test_other_bytes_twice_are_an_error_that_names_the_file(served_store, tmp_path):
    served_store.faults[FIRST] = Fault(99, change=flip)
    with pytest.raises(RemoteError, match=f"{FIRST} has other bytes than its checksum"):
        fetch(served_store, tmp_path / "here")
    assert served_store.requests[FIRST] == 2
    assert not (tmp_path / "here" / FIRST).exists()
    assert not (tmp_path / "here" / "manifest.json").exists()


@pytest.mark.parametrize(
    "body", [b"<!DOCTYPE html><title>Log in</title>", b"", b"\x1f\x8b\x08\x00packed"]
)
@pytest.mark.parametrize("name", ["manifest.json", "files.json"])
def test_a_page_in_the_place_of_a_list_is_told(web, tmp_path, name, body):
    """Servers answer so, with status 200, where one has to log in or nothing is there."""
    (web.root / name).write_bytes(body)
    with pytest.raises(RemoteError, match=f"{name} is no list of files, it begins with '.*address"):
        fetch(web, tmp_path / "here")
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("url", ["http://[::1/a", "http://host:port/a", "https://host:99999/a"])
def test_impossible_hosts_are_refused(url):
    with pytest.raises(ConfigError, match=r"url: .* is no address"):
        parse_address(url)


def test_a_length_that_is_no_number_is_left_alone(tmp_path, label_store):
    class Strange(SimpleHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "many")
            self.end_headers()
            self.wfile.write((label_store.path / self.path.lstrip("/")).read_bytes())

        def log_message(self, *args):
            pass

    with serving(Strange) as url:
        pull(parse_address(url), tmp_path / "here")
    assert verify_store(tmp_path / "here") == []


def test_a_store_is_not_fetched_into_itself(label_store):
    there = parse_address(str(label_store.path))
    with pytest.raises(ConfigError, match=r"folder: .* is in "):
        pull(there, label_store.path / "below")
    assert not (label_store.path / "below").exists()


def test_a_part_of_an_earlier_start_is_continued(served_store, label_store, tmp_path):
    entry = label_store._entries[0]
    folder = tmp_path / "here" / parts.PARTS
    folder.mkdir(parents=True)
    (folder / entry.sha256).write_bytes((label_store.path / FIRST).read_bytes()[:900])
    fetch(served_store, tmp_path / "here")
    assert served_store.starts[FIRST] == [900]
    assert not folder.exists()
    assert verify_store(tmp_path / "here") == []


def test_a_part_with_other_bytes_is_dropped(served_store, label_store, tmp_path):
    folder = tmp_path / "here" / parts.PARTS
    folder.mkdir(parents=True)
    (folder / label_store._entries[0].sha256).write_bytes(b"x" * 900)
    fetch(served_store, tmp_path / "here")
    assert served_store.starts[FIRST] == [900, 0]
    assert verify_store(tmp_path / "here") == []


def test_what_killed_processes_have_left_is_removed(served_store, label_store, tmp_path):
    """Else `fkd verify` would take it for a stray; but not where a process is at work."""
    names = [
        ".tmp.config.json.17",
        "commits/.tmp.00001.json.17",
        "shards/.tmp.00001.safetensors.17",
    ]
    for is_at_work in (True, False):
        fetch(served_store, tmp_path / "here", shards=parse_shards("0:2"))
        for name in names:
            (tmp_path / "here" / name).write_bytes(b"half")
        lock = WriterLock.prepare(tmp_path / "here") if is_at_work else None
        fetch(served_store, tmp_path / "here")
        assert [(tmp_path / "here" / name).exists() for name in names] == [is_at_work] * 3
        if lock is not None:
            lock.release()
    assert verify_store(tmp_path / "here") == []


def test_some_shards_then_the_rest(served_store, label_store, tmp_path):
    done = fetch(served_store, tmp_path / "here", shards=parse_shards("1:3"))
    assert (list(done.shards), done.num_shards) == ([1, 2], 4)
    assert FIRST not in served_store.requests
    there = files_of(tmp_path / "here")
    assert sorted(there) == sorted(
        ["config.json", "manifest.json"]
        + [f"commits/0000{n}.json" for n in (1, 2)]
        + [shard_name(n) for n in (1, 2)]
    )
    fetch(served_store, tmp_path / "here")
    assert served_store.requests[shard_name(1)] == 1
    assert files_of(tmp_path / "here") == files_of(label_store.path)


def test_shards_that_do_not_exist_are_refused(served_store, tmp_path):
    with pytest.raises(ConfigError, match="the store has 4 shards"):
        fetch(served_store, tmp_path / "here", shards=parse_shards("7:"))


def test_the_root_hash_is_compared_before_anything_is_written(served_store, label_store, tmp_path):
    fetch(served_store, tmp_path / "here", root_hash=label_store.root_hash)
    with pytest.raises(StoreMismatch, match=f"{label_store.root_hash}, not 00"):
        fetch(served_store, tmp_path / "other", root_hash="00")
    assert not (tmp_path / "other").exists()


@pytest.fixture
def another_store(image_source, make_store, tmp_path):
    return make_store(tmp_path / "another", image_source, num_crops=3)


def test_another_store_here_is_refused_with_both_hashes(served_store, label_store, another_store):
    before = files_of(another_store.path)
    with pytest.raises(StoreMismatch) as caught:
        fetch(served_store, another_store.path)
    assert label_store.root_hash in str(caught.value)
    assert another_store.root_hash in str(caught.value)
    assert files_of(another_store.path) == before


def test_an_unfinished_store_here_is_refused_where_it_differs(served_store, another_store):
    (another_store.path / "manifest.json").unlink()
    with pytest.raises(StoreMismatch, match="not finished"):
        fetch(served_store, another_store.path)


def test_other_labels_of_the_same_config_are_not_replaced(served_store, label_store, tmp_path):
    shutil.copytree(label_store.path, tmp_path / "here")
    (tmp_path / "here" / "manifest.json").unlink()
    commit = tmp_path / "here" / "commits" / "00000.json"
    commit.write_bytes(commit.read_bytes().replace(b'"sha256":"', b'"sha256":"0')[:-1])
    before = files_of(tmp_path / "here")
    with pytest.raises(StoreMismatch, match="shard 0 with other labels"):
        fetch(served_store, tmp_path / "here")
    assert files_of(tmp_path / "here") == before


def test_folders_that_hold_something_else_are_refused(served_store, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name, message in (
        ("photos", "not empty.*a.jpg"),
        ("file", "is a file"),
        ("link", "nowhere"),
    ):
        with pytest.raises(ConfigError, match=message):
            fetch(served_store, tmp_path / name)


def test_two_processes_do_not_fetch_into_one_folder(served_store, tmp_path):
    with parts.Parts(tmp_path / "here").open(), pytest.raises(RemoteError, match="another process"):
        fetch(served_store, tmp_path / "here")


def test_a_full_disk_is_told_before_and_while(served_store, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(RemoteError, match="the disk has 10 free"):
            fetch(served_store, tmp_path / "here")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(RemoteError, match="no space left on device; free some space"):
        fetch(served_store, tmp_path / "here")
    assert served_store.requests[FIRST] <= 1


def test_no_server_and_no_name_are_told(tmp_path, web):
    for url in ("http://127.0.0.1:9", "http://no-such-host.invalid/labels"):
        with pytest.raises(RemoteError, match="does not answer"):
            pull(parse_address(url), tmp_path / "here")
    with pytest.raises(NotThere, match=r"neither manifest.json"):
        fetch(web, tmp_path / "here")


def test_a_password_is_sent_and_never_shown(served_store, tmp_path):
    url = served_store.url.replace("//", "//ann:secret@")
    pull(parse_address(url), tmp_path / "here")
    assert served_store.headers[-1]["Authorization"] == "Basic YW5uOnNlY3JldA=="
    served_store.faults["manifest.json"] = Fault(99, 403)
    with pytest.raises(RemoteError) as caught:
        pull(parse_address(url), tmp_path / "here")
    assert "secret" not in str(caught.value)


def test_headers_of_the_user_are_sent(served_store, tmp_path):
    fetch(served_store, tmp_path / "here", options={"headers": {"X-Key": "abc"}})
    assert all(given["X-Key"] == "abc" for given in served_store.headers)
    with pytest.raises(ConfigError, match=r"takes headers=.*anon"):
        fetch(served_store, tmp_path / "here", options={"anon": True})


HOSTILE_NAMES = [
    *(
        "../x",
        "/etc/passwd",
        "a/../../x",
        "a//b",
        "",
        ".",
        "..",
        "a/",
        "./a",
        "a\\b",
        "C:/x",
        "c:x",
    ),
    *("a\0b", "a\nb", "\x1b[2J", "nul", "con.txt", "a.", "a/.hidden", ".ssh/x", "x" * 300, "é"),
    *("a/b/c/d/e", "~/x", "files.json", "FILES.json"),
]


def list_of(*items: dict) -> bytes:
    value = {"files": list(items), "format": "fkd-files", "format_version": 1}
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def item(name="a", num_bytes=1, sha256="0" * 64) -> dict:
    return {"bytes": num_bytes, "name": name, "sha256": sha256}


HOSTILE_LISTS = [
    *(list_of(item(name)) for name in HOSTILE_NAMES),
    list_of(item(), item()),
    list_of(item("a"), item("A")),
    list_of(item("a"), item("a/b")),
    list_of(item(num_bytes=-1)),
    list_of(item(num_bytes=1 << 60)),
    list_of(item(num_bytes=1.5)),
    list_of(item(num_bytes=True)),
    list_of(item(sha256="0")),
    list_of(item(sha256="../" + "0" * 61)),
    list_of(item() | {"link": "/etc"}),
    list_of(*[item(f"f{n}") for n in range(10_001)]),
    list_of(),
    b"[]\n",
    b"{}\n",
    b"\xff\n",
    b"[" * 100_000,
    b'{"files":[],"files":[],"format":"fkd-files","format_version":1}\n',
    list_of(item()).replace(b":1}\n", b":2}\n"),
    b"<html>",
]


@pytest.mark.parametrize("data", HOSTILE_LISTS, ids=range(len(HOSTILE_LISTS)))
def test_hostile_lists_are_refused_and_nothing_is_written(web, tmp_path, data):
    (web.root / "files.json").write_bytes(data)
    with pytest.raises(RemoteError):
        fetch(web, tmp_path / "here")
    assert not (tmp_path / "here").exists()
    assert set(web.requests) == {"manifest.json", "files.json"}


def test_hostile_manifests_are_refused_and_nothing_is_written(served_store, tmp_path):
    """With a root hash that fits, as anybody can compute one."""
    from fkd.store import canonical

    path = served_store.root / "manifest.json"
    good = json.loads(path.read_bytes())

    def changed(**members) -> bytes:
        value = {k: v for k, v in (good | members).items() if k != "root_hash"}
        return canonical.encode(value | {"root_hash": canonical.sha256(canonical.encode(value))})

    first, *rest = good["shards"]
    cases = [
        path.read_bytes()[:-9],
        path.read_bytes().replace(b'"bytes":', b'"bytes":1', 1),
        changed(shards=[]),
        changed(shards=[*rest, first]),
        changed(config_id="0" * 64),
        *(
            changed(shards=[first | {name: value}, *rest])
            for name, value in [
                ("file", "../../x"),
                ("bytes", -1),
                ("bytes", 1 << 60),
                ("bytes", 9),
                ("num_images", 10**9),
                ("sha256", "../../x"),
                ("link", "/etc"),
            ]
        ),
    ]
    for data in cases:
        path.write_bytes(data)
        with pytest.raises(RemoteError):
            fetch(served_store, tmp_path / "here")
        assert not (tmp_path / "here").exists()


def test_a_config_of_another_store_is_refused(served_store, another_store, tmp_path):
    shutil.copy(another_store.path / "config.json", served_store.root)
    with pytest.raises(RemoteError, match=r"config.json differs from its checksum"):
        fetch(served_store, tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_endless_small_files_are_not_read_to_the_end(web, tmp_path, monkeypatch):
    monkeypatch.setattr("fkd.remote.pull.MAX_MANIFEST_BYTES", 1000)
    (web.root / "manifest.json").write_bytes(b" " * 5000)
    with pytest.raises(RemoteError, match="more than 1,000 bytes"):
        fetch(web, tmp_path / "here")


def test_nothing_is_written_through_a_link_here(web, run, tmp_path):
    push(run, parse_address(str(web.root)))
    target = tmp_path / "outside"
    target.mkdir()
    here = tmp_path / "here"
    here.mkdir()
    shutil.copy(run / "config.yaml", here)
    (here / "tensorboard").symlink_to(target)
    with pytest.raises(RemoteError, match="is a link"):
        fetch(web, here)
    assert list(target.iterdir()) == []


def test_a_run_comes_from_a_web_server_without_its_checkpoints(web, run, tmp_path):
    push(run, parse_address(str(web.root)))
    assert not (web.root / "checkpoints").exists()
    done = fetch(web, tmp_path / "here")
    shutil.rmtree(run / "checkpoints")
    assert done.kind == "run"
    assert files_of(tmp_path / "here") == files_of(run)
    assert fetch(web, tmp_path / "here").num_files == 0


def test_the_weights_of_a_run_come_last(web, run, tmp_path):
    push(run, parse_address(str(web.root)))
    web.faults["metrics.jsonl"] = Fault(99, 404)
    with pytest.raises(NotThere):
        fetch(web, tmp_path / "here")
    assert "model.safetensors" not in web.requests


def test_another_run_here_is_refused(web, run, tmp_path):
    push(run, parse_address(str(web.root)))
    here = tmp_path / "here"
    fetch(web, here)
    (here / "config.yaml").write_text("method: kd\n")
    with pytest.raises(StoreMismatch, match=r"another run.*config.yaml differs"):
        fetch(web, here)


def test_a_run_has_no_shards(web, run, tmp_path):
    push(run, parse_address(str(web.root)))
    with pytest.raises(ConfigError, match="holds a run, which has none"):
        fetch(web, tmp_path / "here", shards=parse_shards("0:1"))


def test_a_failure_ends_all_threads_soon(served_store, tmp_path):
    served_store.faults[shard_name(1)] = Fault(99, 404)
    before = threading.active_count()
    with pytest.raises(NotThere):
        fetch(served_store, tmp_path / "here")
    assert not [t for t in threading.enumerate() if t.name.startswith("fkd-transfer")]
    assert threading.active_count() <= before + 4  # those of the server


def test_a_redirect_to_another_host_gets_no_password():
    from urllib.request import Request

    from fkd.remote.web import _Redirects

    request = Request("http://a.example/x")
    request.add_unredirected_header("Authorization", "Basic abc")
    for url, expected in (("http://a.example/y", "Basic abc"), ("http://b.example/y", None)):
        after = _Redirects().redirect_request(request, None, 302, "Found", {}, url)
        assert after.get_header("Authorization") == expected


def test_errors_are_ours(tmp_path):
    for url in ("", "http://", "http://h/a?x=1", "s3://", "hf://datasets/x", "hf://a/b/../c"):
        with pytest.raises(FKDError):
            pull(parse_address(url), tmp_path / "here")
