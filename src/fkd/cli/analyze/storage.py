"""`fkd analyze storage`: bytes of labels by codec (Table 2)."""

from dataclasses import asdict

from rich.console import Console
from rich.table import Column, Table

from fkd.analysis.figures import prepare_folder, require_matplotlib, save_analysis
from fkd.analysis.storage import StorageConfig, StorageRow, compare_storage, draw_storage
from fkd.cli.console import format_size, make_console
from fkd.cli.verbs import VERBS
from fkd.errors import ConfigError
from fkd.store import LabelStore
from fkd.userfiles import home_path


def storage(
    *,
    num_images: int | None = None,
    num_classes: int | None = None,
    num_crops: int | None = None,
    kept: tuple[int, ...] = (5, 10),
    key_length: int | None = None,
    store: str | None = None,
    out: str = "analysis",
) -> None:
    """Compare the bytes of labels by codec: the paper's formula, official files, and ours.

    Args:
        num_images: N; by default those of the store.
        num_classes: C; by default those of the store.
        num_crops: M, stored of each image; by default those of the store.
        kept: numbers of kept classes K, for the codecs mr:K and ms:K.
        key_length: mean length of an image's path below its root, bytes; by default that of the
            store, or 30.
        store: a label store, measured beside the predictions.
        out: folder of storage.svg, storage.png and storage.json.
    """
    require_matplotlib()
    opened = None if store is None else LabelStore.open(home_path(store))
    config = _settings(opened, num_images, num_classes, num_crops, kept, key_length)
    prepare_folder(home_path(out))
    rows = compare_storage(config, opened)
    numbers = {"settings": asdict(config), "rows": [asdict(row) for row in rows]}
    files = save_analysis(home_path(out), "storage", draw_storage(rows), numbers)
    console = make_console()
    _print(config, rows, console)
    console.print(f"figure    {files[0]}, {files[1].name}; numbers {files[2].name}")


def _settings(
    store: LabelStore | None,
    num_images: int | None,
    num_classes: int | None,
    num_crops: int | None,
    kept: tuple[int, ...],
    key_length: int | None,
) -> StorageConfig:
    """The settings, with those of the store where nothing is given.

    Raises:
        ConfigError: neither says how much is to be stored.
    """
    given = {"num_images": num_images, "num_classes": num_classes, "num_crops": num_crops}
    if store is not None:
        given = {n: getattr(store, n) if v is None else v for n, v in given.items()}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if missing:
        raise ConfigError(
            f"analyze storage needs {' and '.join(missing)}, or a --store to take them from, e.g. "
            f"{VERBS['analyze storage'].example} (fkd analyze storage --help)"
        )
    if key_length is None:
        lengths = [30] if store is None else [len(key) for key in store.keys(slice(64))]
        key_length = round(sum(lengths) / len(lengths))
    return StorageConfig(
        **{name: value for name, value in given.items() if value is not None},
        kept=kept,
        key_length=key_length,
    )


def _print(config: StorageConfig, rows: list[StorageRow], console: Console) -> None:
    table = Table(
        Column("codec", no_wrap=True),
        *("formula", "official files", "in blocks", "plain store", "compact store", "measured"),
        title=f"{config.num_images:,} images, {config.num_crops} crops each, "
        f"{config.num_classes:,} classes",
        title_justify="left",
    )
    for row in rows:
        sizes = list(asdict(row).values())[1:]
        table.add_row(row.codec, *("-" if size is None else format_size(size) for size in sizes))
    console.print(table, soft_wrap=False)
