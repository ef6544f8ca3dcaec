"""`fkd push` and `fkd pull`: stores and runs in buckets, on web servers and on the hub."""

from pathlib import Path

from rich.console import Console
from rich.progress import DownloadColumn, TransferSpeedColumn

from fkd.checks import require_whole
from fkd.cli.console import format_size, make_bar, make_console, print_remark
from fkd.labeling.config import parse_shards
from fkd.remote.addresses import parse_address
from fkd.remote.places import read_options
from fkd.remote.pull import Pulled
from fkd.remote.pull import pull as pull_from
from fkd.remote.push import push as push_to
from fkd.userfiles import home_path, refuse_address

_MAX_TRANSFERS = 64


def push(
    source: str,
    url: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    replace: bool = False,
    checkpoints: bool = False,
    endpoint_url: str | None = None,
    storage_options: list[str] = [],  # noqa: B006 - never changed, and the parser reads its default
    transfers: int = 8,
) -> None:
    """Send a finished store, or the run of a student, to a bucket, a folder or the hub.

    What is there already is not sent again, so the same command resumes. Another store at the same
    place is refused. docs/sharing.md has more: credentials, what is checked, web servers.

    URL is one of
      s3://bucket/labels   any protocol of fsspec: gs://, abfs://, sftp://, ...
      org/name             a repository of the Hugging Face hub, made if need be, with a card; of a
                           data set for a store, of a model for a run (or hf://datasets/org/name)
      /mnt/share/labels    a folder

    Args:
        source: folder of the store or of the run.
        url: where to, see above.
        private: whether a new repository of the hub is seen by its owner only.
        revision: branch of the repository, made if need be.
        replace: take the place of another store or run in the repository; earlier commits keep it.
        checkpoints: send those of a run, too.
        endpoint_url: of a bucket that is not Amazon's, such as http://minio:9000.
        storage_options: further options of fsspec, such as anon=true.
        transfers: files that are sent at a time.
    """
    require_whole(1, "transfers", transfers)
    refuse_address("source", source, is_written=False)
    console, address = make_console(), parse_address(url)
    with make_bar(console, TransferSpeedColumn(), counts=DownloadColumn()) as bar:
        task = bar.add_task("bytes", total=None)
        done = push_to(
            home_path(source),
            address,
            checkpoints=checkpoints,
            private=private,
            revision=revision,
            replace=replace,
            options=read_options(storage_options, endpoint_url),
            num_threads=min(transfers, _MAX_TRANSFERS),
            progress=lambda at, total: bar.update(task, completed=at, total=total),
        )
    if done.kind == "run" and not checkpoints:
        print_remark(console, "checkpoints are left out; --checkpoints sends them, too")
    sent = "" if done.num_bytes_sent is None else f", {format_size(done.num_bytes_sent)} sent now"
    console.print(
        f"pushed    {done.place}: {done.kind} of {done.num_files:,} files, "
        f"{format_size(done.num_bytes)}{sent}"
    )
    console.print(f"{_hash_name(done.kind)} {done.root_hash}")


def pull(
    url: str,
    folder: str,
    *,
    shards: str | None = None,
    root_hash: str | None = None,
    revision: str | None = None,
    endpoint_url: str | None = None,
    storage_options: list[str] = [],  # noqa: B006 - never changed, and the parser reads its default
    transfers: int = 8,
) -> None:
    """Fetch a store or a run that `fkd push` has sent, and compare every file with its checksum.

    What is there already is not fetched again, so the same command resumes. A store can be fetched
    from any web server that has its files. Some of its shards are enough to train on their images
    (--partial); without --shards the same command then fetches the rest.

    Args:
        url: s3://bucket/labels, any other protocol of fsspec, https://host/labels, org/name or
            hf://datasets/org/name of the hub, or a folder.
        folder: where to; new, empty, or with some of the files.
        shards: fetch only these, FIRST:END as in Python or PART/PARTS from 1.
        root_hash: that the store must have; publish it beside the address.
        revision: branch, tag or commit of a repository of the hub.
        endpoint_url: of a bucket that is not Amazon's, such as http://minio:9000.
        storage_options: further options of fsspec, such as anon=true.
        transfers: files that are fetched at a time.
    """
    require_whole(1, "transfers", transfers)
    refuse_address("folder", folder, is_written=True)
    console, address = make_console(), parse_address(url)
    with make_bar(console, TransferSpeedColumn(), counts=DownloadColumn()) as bar:
        task = bar.add_task("bytes", total=None)
        done = pull_from(
            address,
            Path(home_path(folder)).absolute(),
            shards=None if shards is None else parse_shards(shards),
            root_hash=root_hash,
            revision=revision,
            options=read_options(storage_options, endpoint_url),
            num_threads=min(transfers, _MAX_TRANSFERS),
            progress=lambda at, total: bar.update(task, completed=at, total=total),
        )
    _print_pulled(done, console)


def _print_pulled(done: Pulled, console: Console) -> None:
    there = f", {format_size(done.num_bytes_there)} were there" if done.num_bytes_there else ""
    console.print(
        f"pulled    {done.folder}: {done.kind}, {done.num_files:,} files, "
        f"{format_size(done.num_bytes)}{there}"
    )
    if len(done.shards) < done.num_shards:
        print_remark(
            console,
            f"{len(done.shards)} of {done.num_shards} shards are there; without --shards the same "
            "command fetches the rest",
        )
    console.print(f"{_hash_name(done.kind)} {done.root_hash}")


def _hash_name(kind: str) -> str:
    return "root hash" if kind == "store" else "files    "
