"""`fkd verify` of a store alone: is it intact? Needs neither images nor torch."""

from contextlib import suppress
from pathlib import Path

from rich.console import Console

from fkd.cli.console import make_bar, make_console, print_remark
from fkd.errors import DamagedStore, FormatError, StoreError
from fkd.store import LabelStore, repair_store, verify_store
from fkd.store.hub import locate
from fkd.store.strays import find_companions, is_made_of_links
from fkd.userfiles import home_path

_NAMES_SHOWN = 5
_SHOWN = 20  # problems that are listed one by one


def verify_bytes(store: str, *, repair: bool = False) -> None:
    """Check every byte of a label store.

    Args:
        store: the store's folder.
        repair: move damaged shards to quarantine/, so that `fkd label` computes them again.
    """
    if repair:
        repair_damaged(locate(home_path(store)), make_console())
    else:
        check_bytes(locate(home_path(store)), make_console())


def repair_damaged(store: Path, console: Console) -> None:
    """Set damaged shards aside and list them.

    Raises:
        StoreError: the files of the store are links, and what they lead to may have other users.
    """
    if is_made_of_links(store):
        raise StoreError(
            f"{store} is made of links, as a cache of downloads is, and cannot be repaired; get it "
            "again, or copy it with what the links lead to (cp -rL)"
        )
    moved = repair_store(store)
    for name in moved:
        console.print(f"moved     {name}")
    if moved:
        console.print(
            f"repair    {len(moved)} files moved; run the command that made the store again"
        )
    else:
        console.print("repair    nothing to do: no shard is damaged")


def check_bytes(store: Path, console: Console) -> None:
    """Compare every byte with its checksum.

    Raises:
        DamagedStore: some differ; they are listed.
    """
    with suppress(DamagedStore, FormatError):  # everything that is wrong is listed below
        LabelStore.open(store)  # an unfinished store is not damaged, and says what it lacks
    with make_bar(console) as bar:
        task = bar.add_task("checksums", total=None)
        problems = verify_store(
            store, lambda done, total: bar.update(task, completed=done, total=total)
        )
    for problem in problems[:_SHOWN]:
        console.print(f"damaged   {problem.file}: {problem.message}")
    if problems and not any(problem.repairable for problem in problems):
        raise FormatError(
            f"{store} is not as it should be: {problems[0].file} {problems[0].message}"
        )
    if problems and is_made_of_links(store):
        raise DamagedStore(
            f"{store} is damaged: {problems[0].file}; its files are links, as in a cache of "
            "downloads, so get it again"
        )
    if problems:
        others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DamagedStore(
            f"{store} is damaged: {problems[0].file}{others}; "
            f"run `fkd verify {store} --repair`, then the command that made it again"
        )
    console.print(f"bytes     {LabelStore.open(store)!r} is whole")
    companions = find_companions(store)
    if companions:
        more = ", ..." if companions[_NAMES_SHOWN:] else ""
        shown = ", ".join(companions[:_NAMES_SHOWN]) + more
        print_remark(console, f"not part of the store, and left alone: {shown}")
