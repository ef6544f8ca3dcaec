"""`label` and `verify` for programs: images and teachers are objects, nothing is printed.

The same as `fkd label` and `fkd verify`: a teacher that the command line can load as well gives a
store of the same bytes. Warnings of the command line are warnings of Python here.
"""

import difflib
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from typing import Any

from torch import nn

from fkd.data.canary import check_canaries
from fkd.data.sources import ImagesConfig, ImageSource, as_source
from fkd.data.subset import labeled_part
from fkd.errors import ConfigError, DamagedStore
from fkd.labeling.config import LabelConfig
from fkd.labeling.image_checks import check_images
from fkd.labeling.run import LabelResult, Progress
from fkd.labeling.run import label as run_label
from fkd.labeling.setup import Given
from fkd.labeling.store_checks import (
    CheckReport,
    describe_decoder_change,
    load_teachers_of,
    require_agreement,
    spot_check,
)
from fkd.labels.codec_names import parse_codec
from fkd.labels.codecs import Codec
from fkd.models.modules import TeacherModule
from fkd.models.teacher import TeacherConfig
from fkd.store import LabelStore, verify_store

Model = nn.Module | TeacherModule | TeacherConfig | str
"""A teacher: a module, a module and what is said of it, a configuration, or a name."""

_logger = logging.getLogger("fkd")
_OF_MODULES = frozenset(f.name for f in fields(TeacherModule)) - {"model", "weight"}
_OF_MODULES_ONLY = _OF_MODULES - {f.name for f in fields(TeacherConfig)} | {"class_names", "name"}
_OF_LABELING = frozenset(f.name for f in fields(LabelConfig)) - {
    *("images", "out", "teacher", "teachers")
}


def label(
    images: Any,
    model: Model | Sequence[Model],
    *,
    out: str | os.PathLike[str],
    num_crops: int = 200,
    codec: Codec | str | None = None,
    teacher_weights: Sequence[float] | None = None,
    progress: bool | Progress = False,
    **settings: Any,
) -> LabelStore:
    """Label random crops of images by any network, or resume; returns the store.

    The network is not changed: a copy of it makes the labels. A store of which a part is there is
    completed by the same call, and one of other settings, images or weights is refused.

    Args:
        images: a folder, or what `MultiCropDataset` takes: an ImageFolder, a map-style data set of
            images, an `ImageSource`.
        model: the teacher: an `nn.Module`, a `TeacherModule` that says more of it, a
            `TeacherConfig`, or a name as on the command line; or several of these.
        out: folder of the store.
        num_crops: crops stored per image (M).
        codec: how a label is compressed; by default "ms:5", or all classes where there are fewer.
        teacher_weights: of several teachers, relative to each other; by default equal.
        progress: print what `fkd label` prints, with a bar.
        settings: those of `TeacherModule`, for modules without one of their own (`input_size`,
            `mean`, `std`, `interpolation`, `preprocessing`, `class_names`, `name`, `output`,
            `temperature`, `license`), and the options of `fkd label` (`max_images`, `device`,
            `batch_size`, `numerics`, `teacher_augment`, `shards`, `min_accuracy`, `compile`, ...).

    Raises:
        ConfigError: a setting is unknown or cannot work, the module does not say what its input
            is, it has other outputs than the images have classes, or it gives other outputs for the
            same crops.
        TeacherError: an output is not finite, or the teacher is less accurate than `min_accuracy`.
        CropMismatch: images were changed since an earlier call has labeled them, see `repair`.
        ImageError: more images are unreadable than `max_unreadable`.
        StoreError: the store cannot be written, or belongs to other settings; see its subclasses.

    Example:
        >>> import timm
        >>> import fkd
        >>> model = timm.create_model("test_resnet", num_classes=3)  # of ant, bee and cat
        >>> store = fkd.label("photos", model, out="new_labels", num_crops=4, input_size=32,
        ...                   accuracy_images=0)
        >>> store.num_images, store.num_crops, store.class_names
        (15, 4, ('ant', 'bee', 'cat'))
    """
    _refuse_unknown(settings, _OF_MODULES | _OF_LABELING)
    source = as_source(images)
    teachers = _teachers(model, teacher_weights, _only(settings, _OF_MODULES))
    described = [_described(teacher) for teacher in teachers]
    config = LabelConfig(
        images=_images_config(images, source),
        out=os.fspath(out),
        teacher=described[0] if len(described) == 1 else None,
        teachers=described if len(described) > 1 else [],
        num_crops=num_crops,
        codec=parse_codec(codec) if isinstance(codec, str) else codec,
        **_only(settings, _OF_LABELING),
    )
    with _listening(progress) as listener:
        result = run_label(config, listener, Given(source, teachers))
    if progress is True:
        _print(result, config.out)
    elif result.unreadable and result.leads:
        first = result.unreadable[0]
        warnings.warn(f"{len(result.unreadable)} images have no labels: {first}", stacklevel=2)
    return result.store


def verify(
    store: LabelStore | str | os.PathLike[str],
    images: Any = None,
    model: Model | Sequence[Model] | None = None,
    *,
    spot_checks: int = 64,
    seed: int = 0,
    device: str | None = None,
    **settings: Any,
) -> CheckReport | None:
    """Check every byte of a store; with images and teacher, also what the bytes mean.

    Args:
        store: the store, or its folder.
        images: those that were labeled, as in `label`: every file's checksum is compared.
        model: the teacher that labeled them: it labels some crops again.
        spot_checks: how many.
        seed: of the choice of these crops.
        device: where the teacher runs; by default a GPU if there is one.
        settings: those of `TeacherModule`; by default what the store says of its teacher.

    Returns:
        How the new labels compare with the stored ones; None without a teacher.

    Raises:
        StoreError: the store is damaged, is not of these images (StoreMismatch), or of another
            teacher.
        CropMismatch: image files were changed since they were labeled.
        ConfigError: a setting is unknown or cannot work.

    Example:
        >>> import fkd
        >>> fkd.verify("labels", "photos")
    """
    _refuse_unknown(settings, _OF_MODULES)
    if model is not None and images is None:
        raise ConfigError("images: the teacher needs the images that were labeled")
    path = store.path if isinstance(store, LabelStore) else os.fspath(store)
    labels = LabelStore.open(path)
    problems = verify_store(path)
    if problems:
        first = f"{problems[0].file}: {problems[0].message}"
        raise DamagedStore(f"{path} is damaged: {first}; run `fkd verify {path} --repair`")
    if images is None:
        return None
    source = labeled_part(as_source(images), labels)
    check_images(labels, source)
    if labels.canaries:
        check_canaries(labels, source)
    if model is None:
        return None
    teachers = load_teachers_of(labels, _as_labeled(labels, model, settings), device)
    report = spot_check(labels, source, teachers, spot_checks, seed)
    require_agreement(report, labels, same_decoder=not describe_decoder_change(labels))
    return report


def _as_labeled(
    store: LabelStore, model: Model | Sequence[Model], settings: dict[str, Any]
) -> list[TeacherConfig | TeacherModule]:
    """The teachers, where nothing else is given with what a store says of its own."""
    teachers = _teachers(model, None, settings)
    stored = store.config.get("teachers", [])
    return [
        _filled(teacher, said) if isinstance(teacher, TeacherModule) else teacher
        for teacher, said in zip(teachers, [*stored, *[{}] * len(teachers)], strict=False)
    ]


def _filled(teacher: TeacherModule, said: dict[str, Any]) -> TeacherModule:
    """A module with what a store says of its teacher, where the user says nothing."""
    names = ("name", "input_size", "interpolation", "mean", "std")
    changes = {n: said[n] for n in names if n in said and getattr(teacher, n) is None}
    if teacher.preprocessing is not None:
        changes = {n: value for n, value in changes.items() if n == "name"}
    for name in ("weight", "temperature"):
        if getattr(teacher, name) == 1.0 and name in said:
            changes[name] = said[name]
    if said.get("output") == "features":
        changes["output"] = "features"
    return replace(teacher, **changes)


def _teachers(
    model: Model | Sequence[Model],
    weights: Sequence[float] | None,
    settings: dict[str, Any],
) -> list[TeacherConfig | TeacherModule]:
    """The teachers, one or several, with the settings of those that have none of their own.

    Raises:
        ConfigError: it is no teacher, or a setting would not be used.
    """
    several = isinstance(model, list | tuple)
    models: list[Any] = list(model) if several else [model]  # type: ignore[arg-type]
    if not models:
        raise ConfigError("model: the list is empty; give at least one teacher")
    if weights is not None and len(weights) != len(models):
        raise ConfigError(
            f"teacher_weights: {len(weights)} weights are given for {len(models)} teachers"
        )
    for each in models:
        if not isinstance(each, nn.Module | TeacherModule | TeacherConfig | str):
            raise ConfigError(
                f"model: a {type(each).__name__} is no teacher; give a torch.nn.Module, a "
                "TeacherModule, a TeacherConfig, a name, or a list of these"
            )
    if settings and not any(isinstance(each, nn.Module | str) for each in models):
        raise ConfigError(
            f"{next(iter(settings))}: every teacher has settings of its own; give it there "
            "(TeacherModule, TeacherConfig)"
        )
    teachers = [_teacher(each, settings) for each in models]
    if weights is None:
        return teachers
    return [replace(t, weight=w) for t, w in zip(teachers, weights, strict=True)]


def _teacher(model: Model, settings: dict[str, Any]) -> TeacherConfig | TeacherModule:
    if isinstance(model, TeacherConfig | TeacherModule):
        return model
    if isinstance(model, nn.Module):
        return TeacherModule(model, **settings)
    unused = sorted(settings.keys() & _OF_MODULES_ONLY)
    if unused:
        raise ConfigError(
            f"{unused[0]}: is of modules, and {model!r} is a name; use a TeacherConfig"
        )
    return TeacherConfig(model, **settings)


def _described(teacher: TeacherConfig | TeacherModule) -> TeacherConfig:
    """A teacher as far as the settings of a run must know it."""
    if isinstance(teacher, TeacherConfig):
        return teacher
    return TeacherConfig(
        teacher.name or type(teacher.model).__name__,
        output=teacher.output,
        weight=teacher.weight,
        temperature=teacher.temperature,
    )


def _images_config(images: Any, source: ImageSource) -> ImagesConfig:
    """Where the images are, for messages; those of an object may be nowhere."""
    return images if isinstance(images, ImagesConfig) else ImagesConfig(root=source.root or ".")


def _only(settings: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name in names}


def _refuse_unknown(settings: dict[str, Any], known: frozenset[str]) -> None:
    """Refuse what is no setting.

    Raises:
        ConfigError: names the nearest.
    """
    for name in settings.keys() - known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = (
            f"; did you mean {close[0]}?" if close else f"; use one of {', '.join(sorted(known))}"
        )
        raise ConfigError(f"there is no setting {name}{hint}")


@contextmanager
def _listening(progress: bool | Progress) -> Iterator[Progress]:
    """What is told about a run: a listener of the user's, the command line's, or a quiet one."""
    if isinstance(progress, Progress):
        yield progress
    elif progress:
        from fkd.cli.console import make_console  # rich takes a while
        from fkd.cli.label import LabelReporter

        with closing(LabelReporter(make_console(), "crops")) as reporter:
            yield reporter
    else:
        yield _Quiet()


def _print(result: LabelResult, out: str) -> None:
    from fkd.cli.console import make_console
    from fkd.cli.label import print_result

    print_result(result, out, make_console())


class _Quiet(Progress):
    """Warns, and logs remarks."""

    def remark(self, text: str) -> None:
        """Log it."""
        _logger.info(text)

    def warn(self, text: str) -> None:
        """Warn at the line that called `label`."""
        warnings.warn(text, stacklevel=5)
