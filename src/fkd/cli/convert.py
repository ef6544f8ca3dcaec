"""`fkd convert`: a label store in another form, without the teacher."""

from rich.console import Console
from rich.progress import Progress as Bar

from fkd.cli.console import make_bar, make_console
from fkd.errors import ConfigError
from fkd.labels.quantization import ValueDtype
from fkd.store import Conversion, convert_store
from fkd.store.config import Form
from fkd.store.convert import Progress
from fkd.store.pruning import Keep
from fkd.userfiles import home_path


def convert(
    store: str,
    *,
    out: str | None = None,
    form: Form = "compact",
    num_crops: int | None = None,
    keep: Keep = "first",
    codec: str | None = None,
    value_dtype: ValueDtype | None = None,
) -> None:
    """Write a label store again: compact or plain, with fewer crops or a smaller codec.

    Needs no teacher and no images. Safe to kill: the same command resumes.

    Args:
        store: the folder of a finished store.
        out: folder of the new store.
        form: compact packs the labels of an image into few bits and draws boxes again where it can;
            plain is what `fkd label` writes by default.
        num_crops: keep so many crops of each image; by default all.
        keep: which crops: first is a random choice; confident and uncertain keep those whose most
            probable class has the highest or lowest probability, agree those that give most to the
            class of the image, which has the highest mean over all of its crops.
        codec: keep less of each label, e.g. ms:5 of ms:10, or hard; by default the same.
        value_dtype: how a value is stored, e.g. i8 instead of f16 for the features of a
            self-supervised teacher; by default the same.
    """
    if out is None:
        raise ConfigError("out: give the folder of the new store, e.g. --out labels-compact")
    console = make_console()
    with make_bar(console) as bar:
        done = convert_store(
            home_path(store),
            home_path(out),
            form=form,
            num_crops=num_crops,
            keep=keep,
            codec=codec,
            value_dtype=value_dtype,
            progress=_Reporter(bar),
        )
    _print_result(done, form, console)


class _Reporter(Progress):
    """Moves a progress bar."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._task = bar.add_task("opening", total=None)

    def begins(self, step: str, num_images: int) -> None:
        """Start the bar anew."""
        self._bar.reset(self._task, description=step, total=num_images)

    def advanced(self, num_images: int) -> None:
        """Move the bar."""
        self._bar.advance(self._task, num_images)


def _print_result(done: Conversion, form: Form, console: Console) -> None:
    before, after = done.before, done.after
    geometry = after.config.get("geometry")
    dtype = after.value_dtype
    boxes = "" if geometry is None else f", boxes {geometry}"
    console.print(
        f"converted {after.path}: {after.num_images:,} images x {after.num_crops} crops, "
        f"{after.codec.name}{f' {dtype}' if dtype else ''}, {form}{boxes}"
    )
    for name, store in (("before", before), ("after", after)):
        per_crop = store.num_bytes / (store.num_images * store.num_crops)
        console.print(f"{name:9} {store.num_bytes:,} bytes of labels ({per_crop:.1f} per crop)")
    console.print(f"labels    {done.comparison}")
    console.print(f"root hash {after.root_hash}")
