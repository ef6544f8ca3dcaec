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


def verify_bytes(store: str, *, partial: bool = False, repair: bool = False) -> None:
    """Check every byte of a label store.

    Args:
        store: the store's folder.
        partial: only some shards may be there; these are checked.
        repair: move damaged shards to quarantine/, so that `fkd label` computes them again.
    """
    if repair:
        repair_damaged(locate(home_path(store)), make_console(), partial=partial)
    else:
        check_bytes(locate(home_path(store)), make_console(), partial=partial)


def repair_damaged(store: Path, console: Console, *, partial: bool = False) -> None:
    """Set damaged shards aside and list them.

    Args:
        store: its folder.
        console: for the list.
        partial: only some shards may be there, so that none is damaged by missing.

    Raises:
        StoreError: the files of the store are links, and what they lead to may have other users.
    """
    if is_made_of_links(store):
        raise StoreError(
            f"{store} is made of links, as a cache of downloads is, and cannot be repaired; get it "
            "again, or copy it with what the links lead to (cp -rL)"
        )
    moved = repair_store(store, partial=partial)
    for name in moved:
        console.print(f"moved     {name}")
    if moved:
        way_out = (
            "get these shards again" if partial else "run the command that made the store again"
        )
        console.print(f"repair    {len(moved)} files moved; {way_out}")
    else:
        console.print("repair    nothing to do: no shard is damaged")


def check_bytes(store: Path, console: Console, *, partial: bool = False) -> None:
    """Compare every byte with its checksum.

    Args:
        store: its folder.
        console: for the list of what is wrong.
        partial: only some shards may be there; what is not is told.

    Raises:
        DamagedStore: some differ; they are listed.
        MissingLabel: shards are missing, and `partial` is not set.
    """
    with suppress(DamagedStore, FormatError):  # everything that is wrong is listed below
        # A store that is not finished or lacks shards is not damaged, and says what it lacks.
        LabelStore.open(store, partial=partial)
    with make_bar(console) as bar:
        task = bar.add_task("checksums", total=None)
        problems = verify_store(
            store,
            lambda done, total: bar.update(task, completed=done, total=total),
            partial=partial,
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
    opened = LabelStore.open(store, partial=partial)
    console.print(f"bytes     {opened!r} is whole{_as_far(opened)}")
    companions = find_companions(store)
    if companions:
        more = ", ..." if companions[_NAMES_SHOWN:] else ""
        shown = ", ".join(companions[:_NAMES_SHOWN]) + more
        print_remark(console, f"not part of the store, and left alone: {shown}")


def _as_far(store: LabelStore) -> str:
    """What to say of the shards of a store that are not there, as the end of a sentence."""
    if not store.is_partial:
        return ""
    missing = store.num_shards - len(store.committed)
    images = store.num_images_in_all - store.num_images
    of_config = "" if store.root_hash else "; it is not finished, so its keys were not compared"
    return f" as far as it is there: {missing} shards with {images:,} images are not{of_config}"
