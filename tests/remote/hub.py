"""A stand-in of the Hugging Face hub: the part of its HTTP API that the hub's own client calls.

Repositories with branches and commits, Git LFS uploads, gated and private repositories, tokens.
"""

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit

WRITE, READ = "hf_writes", "hf_reads"


@dataclass
class Repository:
    """One repository: the files of every commit, and its branches."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit and the files of a revision; None if there is no such."""
        sha = self.branches.get(revision, revision)
        return (sha, self.commits[sha]) if sha in self.commits else None

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        """Make a branch lead to these files."""
        text = repr([branch, len(self.commits), sorted(files)])
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        return sha


@dataclass
class Hub:
    """All repositories, by "datasets/org/name" or "models/org/name"."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)
    requests: Counter = field(default_factory=Counter)
    uploads: list[str] = field(default_factory=list)
    broken: dict[str, int] = field(default_factory=dict)  # path to how often it has other bytes
    status: dict[str, int] = field(default_factory=dict)  # of a path that fails
    lock: threading.Lock = field(default_factory=threading.Lock)


def git_sha(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_lfs(path: str) -> bool:
    return path.endswith(".safetensors")


class HubHandler(BaseHTTPRequestHandler):
    """Answers the requests of the hub's client."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *args, hub: Hub):
        self.hub = hub
        super().__init__(*args)

    def log_message(self, *args):
        pass

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def do_GET(self):
        self._answer("GET")

    def do_HEAD(self):
        self._answer("HEAD")

    def do_POST(self):
        self._answer("POST")

    def do_PUT(self):
        self._answer("PUT")

    def _answer(self, method: str):
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = self._read_chunks()
        path = unquote(urlsplit(self.path).path)
        with self.hub.lock:
            self.hub.requests[f"{method} {path}"] += 1
            for name, status in self.hub.status.items():
                if name in path:
                    self._fail(status)
                    return
            for pattern, answer in ROUTES:
                if found := re.fullmatch(pattern, f"{method} {path}"):
                    answer(self, **found.groupdict())
                    return
        self._fail(404)

    def _read_chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, data: bytes, status=200, body=True, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def _json(self, value):
        self._send(json.dumps(value).encode(), Content_Type="application/json")

    def _fail(self, status: int, code: str = ""):
        named = {"X_Error_Code": code} if code else {}
        self._send(b'{"error": "no"}', status, self.command != "HEAD", **named)

    def _seen(self, key: str) -> Repository | None:
        """The repository, if this user may see it; else an answer is sent."""
        repository = self.hub.repositories.get(key)
        if repository is None or (repository.private and not self.token):
            self._fail(404 if self.token else 401, "RepoNotFound")
            return None
        if repository.gated and self.token != WRITE:
            self._fail(403, "GatedRepo")
            return None
        return repository

    def _writes(self) -> bool:
        if self.token != WRITE:
            self._fail(403 if self.token else 401)
        return self.token == WRITE

    def create(self):
        wanted = json.loads(self.body)
        if not self._writes():
            return
        if wanted["organization"] == "others":
            self._fail(403)
            return
        kind, name = wanted.get("type") or "model", f"{wanted['organization']}/{wanted['name']}"
        key, prefix = f"{kind}s/{name}", "" if kind == "model" else f"{kind}s/"
        answer = {"url": f"{self.hub.url}/{prefix}{name}", "id": "1"}
        if key in self.hub.repositories:
            self._send(json.dumps(answer | {"error": "it exists"}).encode(), 409)
            return
        made = Repository(private=wanted.get("visibility") == "private")
        made.commit("main", {".gitattributes": b""})
        self.hub.repositories[key] = made
        self._json(answer)

    def branch(self, key, revision):
        repository = self._seen(key)
        if repository is None or not self._writes():
            return
        if revision in repository.branches:
            self._fail(409)
            return
        repository.branches[revision] = repository.branches["main"]
        self._json({})

    def validate(self):
        assert json.loads(self.body)["content"].startswith("---\n")
        self._json({"errors": [], "warnings": []})

    def _files(self, key, revision) -> tuple[str, dict[str, bytes]] | None:
        repository = self._seen(key)
        if repository is None:
            return None
        found = repository.files(revision or "main")
        if found is None:
            self._fail(404, "RevisionNotFound")
        return found

    def info(self, key, revision=None):
        found = self._files(key, revision)
        if found is not None:
            names = [{"rfilename": path} for path in found[1]]
            self._json({"id": key.partition("/")[2], "sha": found[0], "siblings": names})

    def _oid(self, path: str, data: bytes) -> str:
        return hashlib.sha256(data).hexdigest() if is_lfs(path) else git_sha(data)

    def _entry(self, path: str, data: bytes) -> dict:
        entry = {"type": "file", "path": path, "size": len(data), "oid": git_sha(data)}
        if is_lfs(path):
            sha256 = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 130}
        return entry

    def tree(self, key, revision):
        found = self._files(key, revision)
        if found is not None:
            self._json([self._entry(path, data) for path, data in found[1].items()])

    def paths(self, key, revision):
        wanted = parse_qs(self.body.decode())["paths"]
        found = self._files(key, revision)
        if found is not None:
            self._json([self._entry(p, found[1][p]) for p in wanted if p in found[1]])

    def preupload(self, key, revision):
        found = self._files(key, revision)
        if found is None or not self._writes():
            return
        files = []
        for each in json.loads(self.body)["files"]:
            path, old = each["path"], found[1].get(each["path"])
            oid = None if old is None else self._oid(path, old)
            mode = "lfs" if is_lfs(path) else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": files})

    def batch(self, name):
        objects = []
        for each in json.loads(self.body)["objects"]:
            entry = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.hub.lfs:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}}
            objects.append(entry)
        self._json({"transfer": "basic", "objects": objects})

    def put(self, oid):
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.lfs[oid] = self.body
        self.hub.uploads.append(oid)
        self._send(b"")

    def commit(self, key, revision):
        found = self._files(key, revision)
        if found is None or not self._writes():
            return
        files = dict(found[1])
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.lfs[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        sha = self.hub.repositories[key].commit(revision, files)
        name = key.partition("/")[2]
        self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha})

    def resolve(self, name, revision, file, kind=""):
        found = self._files(f"{kind or 'models/'}{name}", revision)
        if found is None:
            return
        sha, files = found
        if file not in files:
            self._fail(404, "EntryNotFound")
            return
        data = files[file]
        etag = self._oid(file, data)
        if self.hub.broken.get(file, 0) and self.command == "GET":
            self.hub.broken[file] -= 1
            data = data[:-1] + b"?"
        start = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
        status = 206 if "Range" in self.headers else 200
        headers = {"X_Repo_Commit": sha, "ETag": f'"{etag}"'}
        self._send(data[start:], status, self.command != "HEAD", **headers)


KEY = r"(?P<key>(?:datasets|models)/[^/]+/[^/]+)"
NAME = r"(?P<name>[^/]+/[^/]+)"
ROUTES = [
    (r"POST /api/repos/create", HubHandler.create),
    (r"POST /api/validate-yaml", HubHandler.validate),
    (rf"POST /api/{KEY}/branch/(?P<revision>.+)", HubHandler.branch),
    (rf"POST /api/{KEY}/preupload/(?P<revision>.+)", HubHandler.preupload),
    (rf"POST /api/{KEY}/commit/(?P<revision>.+)", HubHandler.commit),
    (rf"POST /api/{KEY}/paths-info/(?P<revision>.+)", HubHandler.paths),
    (rf"GET /api/{KEY}/tree/(?P<revision>[^/]+)", HubHandler.tree),
    (rf"GET /api/{KEY}(/revision/(?P<revision>.+))?", HubHandler.info),
    (rf"POST /(?:datasets/)?{NAME}\.git/info/lfs/objects/batch", HubHandler.batch),
    (r"PUT /lfs/(?P<oid>.+)", HubHandler.put),
    (
        rf"(?:GET|HEAD) /(?P<kind>datasets/)?{NAME}/resolve/(?P<revision>[^/]+)/(?P<file>.+)",
        HubHandler.resolve,
    ),
]
