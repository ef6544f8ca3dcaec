"""`fkd verify` with images or a teacher: does a store belong to them?"""

from rich.console import Console

from fkd.cli.console import make_bar, make_console, print_below, print_remark, print_warning
from fkd.cli.verify import check_bytes, repair_damaged
from fkd.data.canary import check_canaries, describe_missing_canaries
from fkd.data.joining import shared_rows
from fkd.data.sources import ImagesConfig, ImageSource, open_source, remarks_of
from fkd.data.subset import labeled_part
from fkd.errors import ConfigError
from fkd.labeling.axes import compare_axes_of
from fkd.labeling.image_checks import check_images
from fkd.labeling.store_checks import (
    describe_decoder_change,
    load_teachers_of,
    require_agreement,
    spot_check,
)
from fkd.models.ensemble import TeacherEnsemble
from fkd.models.teacher import TeacherConfig
from fkd.store import LabelStore
from fkd.store.hub import locate
from fkd.userfiles import home_path


def verify(
    store: str,
    *,
    images: ImagesConfig | None = None,
    teacher: TeacherConfig | None = None,
    teachers: list[TeacherConfig] | None = None,
    spot_checks: int = 64,
    seed: int = 0,
    device: str | None = None,
    partial: bool = False,
    allow_missing_images: bool = False,
    repair: bool = False,
) -> None:
    """Check every byte of a label store; with images and teacher, also what the bytes mean.

    Args:
        store: the store's folder.
        images: the images that were labeled: every file's checksum is compared.
        teacher: the model that labeled them: it labels some crops again.
        teachers: several models, for the store of an ensemble.
        spot_checks: crops to label again.
        seed: of the choice of these crops.
        device: where the teacher runs; by default a GPU if there is one.
        partial: only some shards may be there; these are checked.
        allow_missing_images: images of the store may be missing; those that are there are compared.
        repair: move damaged shards to quarantine/, so that `fkd label` computes them again.
    """
    console = make_console()
    models = ([] if teacher is None else [teacher]) + (teachers or [])
    if models and images is None:
        raise ConfigError("images.root: the teacher needs the images that were labeled")
    folder = locate(home_path(store))
    if repair:
        repair_damaged(folder, console, partial=partial)
        return
    check_bytes(folder, console, partial=partial)
    if images is None:
        return
    labels = LabelStore.open(folder, partial=partial)
    source = labeled_part(open_source(images), labels)
    loaded = load_teachers_of(labels, models, device) if models else None
    for remark in remarks_of(source):
        print_remark(console, remark)
    _check_images(labels, source, console, allow_missing=allow_missing_images)
    if loaded is not None:
        _spot_check(labels, source, loaded, spot_checks, seed, console)


def _check_images(
    store: LabelStore, source: ImageSource, console: Console, *, allow_missing: bool
) -> None:
    with make_bar(console) as bar:
        task = bar.add_task("images", total=len(source))
        remarks = check_images(
            store, source, lambda done: bar.advance(task, done), allow_missing=allow_missing
        )
    for remark in remarks:
        print_remark(console, remark)
    console.print(f"images    {len(source):,} files are those that were labeled")
    rows = shared_rows(source, store)
    missing = describe_missing_canaries(store, rows)
    if missing:
        print_remark(console, missing)
    else:
        console.print(f"canaries  {check_canaries(store, source, among=rows)}")


def _spot_check(
    store: LabelStore,
    source: ImageSource,
    teachers: TeacherEnsemble,
    spot_checks: int,
    seed: int,
    console: Console,
) -> None:
    if store.grid is not None and store.config.get("origin") == "imported":
        _check_axes(store, source, teachers, console)
    report = spot_check(store, source, teachers, spot_checks, seed)
    console.print(f"checked   {report}")
    change = describe_decoder_change(store)
    if change:
        print_warning(
            console, f"images are decoded otherwise than when they were labeled: {change}"
        )
    require_agreement(report, store, same_decoder=not change)


def _check_axes(
    store: LabelStore, source: ImageSource, teachers: TeacherEnsemble, console: Console
) -> None:
    """Which reading imported maps follow; labels of another teacher tell it as well."""
    axes, swap_xy = compare_axes_of(store, source, teachers), store.config.get("swap_xy") is True
    print_below(console, "axes", axes.describe(swap_xy=swap_xy))
    if axes.is_right is False:
        print_warning(
            console,
            "the maps were imported under the wrong reading; import them again "
            + ("without --swap_xy" if swap_xy else "with --swap_xy"),
        )
