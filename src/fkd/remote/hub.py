"""A repository of the Hugging Face hub as a place to fetch from and to push to.

The hub's own client does the work: it finds the token, follows to the storage behind the hub, sends
only what the hub does not have, and continues what was cut.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fkd.errors import NotThere, RemoteError
from fkd.remote.attempts import Watch
from fkd.remote.contents import Contents
from fkd.remote.parts import writing
from fkd.store.hub import HubAddress, HubKind, call_hub, describe
from fkd.store.manifest import COMMITS, SHARDS

README = "README.md"
_BATCH = 16  # files of one request


class HubFolder:
    """A repository of the hub, or a folder in it.

    Args:
        address: of it.
        kind: of the repository.
        revision: instead of that of the address.
    """

    def __init__(self, address: HubAddress, kind: HubKind, revision: str | None = None) -> None:
        self.address = replace(address, kind=kind, revision=revision or address.revision)

    def __str__(self) -> str:
        return describe(self.address)

    @cached_property
    def commit(self) -> str:
        """The commit that the revision means now, so that all files are of the same one."""
        info = self._call("repo_info", revision=self.address.revision)
        return str(info.sha)

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of a small file.

        Raises:
            NotThere: there is no such repository, revision or file.
            RemoteError: the hub refuses, or the file is longer than `limit`.
        """
        found = self._call("get_paths_info", paths=[self.address.path(name)], revision=self.commit)
        size = next((getattr(each, "size", None) for each in found), None)
        if size is None:
            raise NotThere(f"{self} has no {name}")
        if size > limit:
            raise RemoteError(f"{name} of {self} has {size:,} bytes; {limit:,} are allowed")
        with tempfile.TemporaryDirectory(prefix="fkd-") as folder:
            return self._fetch(name, folder).read_bytes()

    def download(self, name: str, part: Path, num_bytes: int, watch: Watch) -> None:
        """Fetch a file, or continue that; errors as for `read`."""
        place = part.parent / f"hub-{part.name[:16]}"
        had = part.stat().st_size if part.exists() else 0
        watch.advance(-had)
        fetched = self._fetch(name, str(place))
        with writing(part):
            os.replace(fetched, part)
            shutil.rmtree(place, ignore_errors=True)
        watch.advance(num_bytes)

    def has_readme(self) -> bool:
        """Whether the repository has a card."""
        path = self.address.path(README)
        return bool(self._call("get_paths_info", paths=[path], revision=self.address.revision))

    def create(self, private: bool | None) -> None:
        """Make the repository, and the branch of the revision, where they are missing.

        Raises:
            RemoteError: the hub does not know the user, or does not let it.
        """
        self._call("create_repo", private=private, exist_ok=True)
        if self.address.revision:
            self._call("create_branch", branch=self.address.revision, exist_ok=True)

    def send(
        self,
        folder: Path,
        contents: Contents,
        card: bytes | None,
        stale: Sequence[str],
        progress: Callable[[int], None],
    ) -> str:
        """Send files in one commit, so that a reader sees all of it or nothing; its URL.

        Args:
            folder: that has the files.
            contents: which.
            card: the README; None leaves it as it is.
            stale: files that the commit removes.
            progress: called with bytes that were sent, or are there already.

        Raises:
            RemoteError: the hub refuses or does not answer.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        def add(name: str, source: str | bytes) -> Any:
            return CommitOperationAdd(self.address.path(name), source)

        operations = [add(item.name, str(folder / item.name)) for item in contents.items]
        for start in range(0, len(operations), _BATCH):
            batch = slice(start, start + _BATCH)
            self._call(
                "preupload_lfs_files",
                additions=operations[batch],
                revision=self.address.revision,
                free_memory=False,
            )
            progress(sum(item.num_bytes for item in contents.items[batch]))
        if card is not None:
            operations.append(add(README, card))
        operations.append(add(contents.list_name, contents.list_bytes))
        operations += [CommitOperationDelete(self.address.path(name)) for name in stale]
        info = self._call(
            "create_commit",
            operations=operations,
            commit_message=f"{contents.kind} {contents.root_hash[:16]}",
            revision=self.address.revision,
        )
        progress(len(contents.list_bytes))
        return str(info.commit_url)

    def stale(self, contents: Contents) -> list[str]:
        """Files of another store or run in the repository that these contents do not have."""
        prefix = f"{self.address.folder}/" if self.address.folder else ""
        names = self._call("list_repo_files", revision=self.address.revision)
        new = {item.name for item in contents.items} | {contents.list_name}
        inside = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        ours = (f"{SHARDS}/", f"{COMMITS}/", "manifest.json", "files.json", "model.safetensors")
        return [name for name in inside if name.startswith(ours) and name not in new]

    def _fetch(self, name: str, folder: str) -> Path:
        path = self._call(
            "hf_hub_download",
            filename=self.address.path(name),
            revision=self.commit,
            local_dir=folder,
        )
        return Path(path)

    def _call(self, function: str, **options: Any) -> Any:
        address = self.address
        return call_hub(address, function, address.repository, repo_type=address.kind, **options)


def places_of(address: HubAddress, revision: str | None = None) -> list[HubFolder]:
    """What an address may mean: a data set, a model, or either where it does not say."""
    kinds: tuple[HubKind, ...] = ("dataset", "model") if address.kind is None else (address.kind,)
    return [HubFolder(address, kind, revision) for kind in kinds]
