"""`fkd merge`: shards that several machines have labeled, as one store."""

from fkd.cli.console import make_bar, make_console, print_remark
from fkd.cli.label import print_store
from fkd.data.sources import ImagesConfig
from fkd.errors import ConfigError
from fkd.labeling.merge import merge as merge_parts
from fkd.userfiles import home_path


def merge(parts: list[str], *, images: ImagesConfig, out: str) -> None:
    """Join the shards that `fkd label --shards` has written on several machines.

    Parts may overlap. The store has the bytes and the root hash of one that a single machine has
    labeled. Safe to kill: the same command resumes. Labels are not computed again here, as `fkd
    label` does at its end: `fkd verify --teacher.name` does so.

    Args:
        parts: folders with shards, together all of them.
        images: the images that were labeled.
        out: folder of the store.
    """
    if not out:
        raise ConfigError("out: give the folder of the store, e.g. --out labels/mine")
    console, target = make_console(), str(home_path(out))
    with make_bar(console) as bar:
        task = bar.add_task("bytes", total=None)
        folders = [str(home_path(part)) for part in parts]
        result = merge_parts(
            folders,
            target,
            images,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    for remark in result.remarks:
        print_remark(console, remark)
    print_store(result.store, target, console)
