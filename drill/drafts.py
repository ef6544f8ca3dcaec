"""A store in parts that can be changed, and written again with checksums that fit."""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fkd.store.canonical import encode, sha256
from fkd.store.config import StoreConfig
from fkd.store.layout import CHECKSUM, Placed, Rows, columns_of, parse_header

_MOST_BYTES = 1 << 24  # of JSON that is repeated


@dataclass
class Draft:
    """A store in parts that can be changed; `seal` makes the checksums fit.

    Attributes:
        manifest: its JSON.
        config: its JSON.
        headers: of each shard, its JSON.
        data: of each shard, its bytes after the header.
        commits: changes of the commits' JSON, by shard.
    """

    manifest: dict[str, Any]
    config: Any
    headers: list[Any]
    data: list[bytearray]
    commits: list[dict[str, Any]]

    @staticmethod
    def read(store: Path) -> "Draft":
        """The parts of a whole store."""
        headers, data = [], []
        for shard in sorted((store / "shards").iterdir()):
            whole = shard.read_bytes()
            start = 8 + int.from_bytes(whole[:8], "little")
            headers.append(json.loads(whole[8:start]))
            data.append(bytearray(whole[start:]))
        commits = [json.loads(file.read_bytes()) for file in sorted((store / "commits").iterdir())]
        manifest = json.loads((store / "manifest.json").read_bytes())
        config = json.loads((store / "config.json").read_bytes())
        return Draft(manifest, config, headers, data, commits)

    def parts(self) -> dict[str, Any]:
        """What may be changed as JSON."""
        parts = {"manifest": self.manifest, "config": self.config}
        for number, (header, commit) in enumerate(zip(self.headers, self.commits, strict=True)):
            parts |= {f"header {number}": header, f"commit {number}": commit}
        return parts

    def write(self, store: Path) -> None:
        """Write the store with checksums that fit as far as the changes allow."""
        config = encode(self.config)
        for number, (header, data) in enumerate(zip(self.headers, self.data, strict=True)):
            self._seal_shard(store, number, header, data, sha256(config))
        self.manifest.pop("root_hash", None)
        if self.manifest.get("config_id") is not None:
            self.manifest["config_id"] = sha256(config)
        self.manifest["root_hash"] = sha256(encode(self.manifest))
        (store / "manifest.json").write_bytes(encode(self.manifest))
        (store / "config.json").write_bytes(config)

    def _seal_shard(
        self, store: Path, number: int, header: Any, data: bytearray, config_id: str
    ) -> None:
        if isinstance(header, dict) and isinstance(header.get("__metadata__"), dict):
            header["__metadata__"]["config_id"] = config_id
        text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        whole = len(text).to_bytes(8, "little") + text + data
        (store / f"shards/{number:05d}.safetensors").write_bytes(whole)
        facts = {"bytes": len(whole), "sha256": sha256(whole)}
        facts["header_sha256"] = sha256(whole[: 8 + len(text)])
        commit = self.commits[number] | facts | {"config_id": config_id}
        (store / f"commits/{number:05d}.json").write_bytes(encode(commit))
        shards = self.manifest.get("shards")
        if isinstance(shards, list) and number < len(shards) and isinstance(shards[number], dict):
            shards[number] |= facts


def put(part: Any, path: tuple[Any, ...], value: Any) -> None:
    """Replace, delete (`...`), or repeat (an int in a tuple) what lies at a path."""
    for name in path[:-1]:
        part = part[name]
    if value is ...:
        del part[path[-1]]
    elif isinstance(value, tuple):
        old = part[path[-1]]
        times = min(value[0], _MOST_BYTES // (1 + len(json.dumps(old))))
        part[path[-1]] = old * times if isinstance(old, list | str) else [old] * times
    else:
        part[path[-1]] = copy.deepcopy(value)


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a JSON value something can be changed."""
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*prefix, name)
            yield from paths(inner, (*prefix, name))


def columns(draft: Draft, number: int) -> dict[str, Placed]:
    """Where the columns of a shard lie."""
    header = json.dumps(draft.headers[number]).encode()
    return parse_header(header, len(draft.data[number]), "the shard")[0]


def overwrite(draft: Draft, number: int, name: str, item: int, pattern: bytes, many: int) -> None:
    """Give `many` values of a column from `item` on other bytes; checksums of rows fit again."""
    placed, shard = columns(draft, number), draft.data[number]
    column, size = placed[name], placed[name].dtype.itemsize
    start = column.start + item * size
    many = min(many, (column.stop - start) // size)
    shard[start : start + many * size] = pattern[:size].rjust(size, pattern[:1]) * many
    wide = "crop.box" in placed and placed["crop.box"].dtype.itemsize == 4
    config = StoreConfig.parse(draft.config, "the config")
    rows = Rows(memoryview(shard), columns_of(config, wide), placed)
    where = placed[CHECKSUM]
    sums = [rows.crc32(row) for row in range(where.shape[0])]
    shard[where.start : where.stop] = np.array(sums, where.dtype).tobytes()
