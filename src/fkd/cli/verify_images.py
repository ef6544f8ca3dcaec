"""`fkd verify` with images or a teacher: does a store belong to them?"""

from rich.console import Console

from fkd.cli.console import make_bar, make_console, print_remark, print_warning
from fkd.cli.verify import check_bytes, repair_damaged
from fkd.data.canary import check_canaries, describe_missing_canaries
from fkd.data.sources import ImagesConfig, ImageSource, open_source
from fkd.data.subset import labeled_part
from fkd.errors import ConfigError
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
        repair: move damaged shards to quarantine/, so that `fkd label` computes them again.
    """
    console = make_console()
    models = ([] if teacher is None else [teacher]) + (teachers or [])
    if models and images is None:
        raise ConfigError("images.root: the teacher needs the images that were labeled")
    folder = locate(home_path(store))
    if repair:
        repair_damaged(folder, console)
        return
    check_bytes(folder, console)
    if images is None:
        return
    labels = LabelStore.open(folder)
    source = labeled_part(open_source(images), labels)
    loaded = load_teachers_of(labels, models, device) if models else None
    _check_images(labels, source, console)
    if loaded is not None:
        _spot_check(labels, source, loaded, spot_checks, seed, console)


def _check_images(store: LabelStore, source: ImageSource, console: Console) -> None:
    with make_bar(console) as bar:
        task = bar.add_task("images", total=len(source))
        check_images(store, source, lambda done: bar.advance(task, done))
    console.print(f"images    {len(source):,} files are those that were labeled")
    if store.canaries:
        console.print(f"canaries  {check_canaries(store, source)}")
    else:
        print_remark(console, describe_missing_canaries(store))


def _spot_check(
    store: LabelStore,
    source: ImageSource,
    teachers: TeacherEnsemble,
    spot_checks: int,
    seed: int,
    console: Console,
) -> None:
    report = spot_check(store, source, teachers, spot_checks, seed)
    console.print(f"checked   {report}")
    change = describe_decoder_change(store)
    if change:
        print_warning(
            console, f"images are decoded otherwise than when they were labeled: {change}"
        )
    require_agreement(report, store, same_decoder=not change)
