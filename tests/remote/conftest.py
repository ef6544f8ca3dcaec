"""Servers on loopback: a web server with faults, a real S3 server, stores and runs to send."""

import json
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fkd.remote import attempts
from tests.viewing.folders import write_run

PROXIES = ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]


@pytest.fixture(autouse=True)
def loopback(monkeypatch):
    """No proxy of this machine between a test and its server; no waiting before an attempt."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setattr(attempts, "DELAYS", (0.0, 0.0, 0.0))


@dataclass
class Fault:
    """What a web server does to one file, so many times: a status, or a change of its body."""

    times: int
    status: int = 200
    change: Callable[[bytes], bytes] = bytes
    cut: int | None = None


@dataclass
class Web:
    """A web server on loopback.

    Attributes:
        url: of its folder.
        root: the folder.
        faults: by name of the file.
        requests: how often each file was asked for.
        ranges: whether it honors them; Python's own server does not.
        starts: the first bytes that were asked for, by name.
    """

    url: str
    root: Path
    faults: dict[str, Fault] = field(default_factory=dict)
    requests: Counter = field(default_factory=Counter)
    ranges: bool = True
    starts: dict[str, list[int]] = field(default_factory=dict)
    headers: list[dict[str, str]] = field(default_factory=list)


class Handler(SimpleHTTPRequestHandler):
    """Sends files, with the faults of `web`."""

    def __init__(self, *args, web: Web, **options):
        self.web = web
        super().__init__(*args, directory=str(web.root), **options)

    def do_GET(self):
        web, name = self.web, self.path.lstrip("/")
        web.requests[name] += 1
        web.headers.append(dict(self.headers))
        path = Path(self.translate_path(self.path))
        fault = web.faults.get(name)
        if fault is not None and fault.times > 0:
            fault.times -= 1
        else:
            fault = Fault(0)
        if fault.status != 200 or not path.is_file():
            self.send_error(fault.status if fault.status != 200 else 404)
            return
        self._send(name, path.read_bytes(), fault)

    def _send(self, name: str, data: bytes, fault: Fault):
        given = self.headers.get("Range")
        start = int(given.removeprefix("bytes=").rstrip("-")) if given else 0
        self.web.starts.setdefault(name, []).append(start)
        honored = bool(given) and self.web.ranges
        body = fault.change(data)[start if honored else 0 :]
        self.send_response(206 if honored else 200)
        if honored:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: fault.cut])
        self.close_connection = True

    def log_message(self, *args):
        pass


@contextmanager
def serving(handler) -> Iterator[str]:
    """A server in a thread; yields its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def web(tmp_path) -> Iterator[Web]:
    """A web server of an empty folder."""
    root = tmp_path / "served"
    root.mkdir()
    served = Web("", root)
    with serving(partial(Handler, web=served)) as url:
        served.url = url
        yield served


@pytest.fixture
def served_store(web, label_store) -> Web:
    """The same of a store with four shards."""
    shutil.copytree(label_store.path, web.root, dirs_exist_ok=True)
    (web.root / "lock").unlink(missing_ok=True)
    return web


@pytest.fixture
def run(tmp_path) -> Path:
    """The folder of a finished run, with checkpoints."""
    folder = write_run(tmp_path / "run", finished=False)
    card = {"architecture": "test_resnet", "num_classes": 3, "pretrained_cfg": {"license": "mit"}}
    (folder / "config.json").write_text(json.dumps(card))
    safetensors.torch.save_file({"w": torch.arange(6.0)}, folder / "model.safetensors")
    (folder / "tensorboard").mkdir()
    (folder / "tensorboard" / "events.out.tfevents.1.host.2.0").write_bytes(b"events")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "step-3.pt").write_bytes(b"state")
    return folder


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """A real S3 server (moto), without any bucket."""
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_url, monkeypatch, tmp_path_factory) -> str:
    """The endpoint of an S3 server with an empty bucket "labels", and credentials for it."""
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path_factory.mktemp("aws") / "config"))
    system = s3fs.S3FileSystem(endpoint_url=s3_url, skip_instance_cache=True)
    if system.exists("labels"):
        system.rm("labels", recursive=True)
    system.mkdir("labels")
    return s3_url
