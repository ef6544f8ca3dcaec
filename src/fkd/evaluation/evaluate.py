"""Several models on several sets of images: accuracy, calibration, agreement with a teacher.

Everything is opened and checked before the first pass. A pair of model and set whose result is in
the file of results already, with the same weights, input and images, is not computed again.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from fkd.checks import require_whole
from fkd.data.identity import identify_images
from fkd.data.sources import ImagesConfig, ImageSource, open_source, remarks_of
from fkd.errors import ConfigError
from fkd.evaluation.figures import summarize, summarize_comparison
from fkd.evaluation.passes import Pass, run_pass
from fkd.evaluation.reference import Reference, load_reference, share_classes
from fkd.evaluation.results import EvalResult, ResultsFile, find_result
from fkd.evaluation.sets import SetConfig, describe_subset, find_truth, parse_set
from fkd.models.architectures.embedders import Embedder
from fkd.models.checkpoints import weights_sha256
from fkd.models.classes import numbered_classes, read_class_names
from fkd.models.devices import resolve_device
from fkd.models.lookup import find_model
from fkd.models.teacher import TeacherConfig
from fkd.models.trial import try_network
from fkd.models.zoo import LoadedModel
from fkd.userfiles import settle_paths

_IMAGES = "images"  # what a set is called that is given by --images alone


@dataclass(frozen=True)
class EvalConfig:
    """Which models are evaluated on which images.

    Attributes:
        model: folder of a finished run; or a timm model, or "torchvision/NAME"; or several.
        images: the images to evaluate on.
        sets: further images, each under a name: a path, which may have a kind before it
            (real:imagenet/val), or settings; see below.
        teacher: a model to compare with: agreement and KL divergence.
        checkpoint: weights for the named model; by default its pretrained ones.
        class_names: a file with the names of the outputs (JSON list, or one per line), where they
            are not known.
        input_size: side of the crops, pixels; by default each model's own.
        out: a JSON file that every result is added to, and that is read before: what it has is not
            computed again.
        redo: compute again what `out` has.
        batch_size: images in a forward pass.
        num_workers: threads that decode images.
        device: cpu, cuda, cuda:1, mps, xpu; by default cuda if there is one.

    Example:
        >>> from fkd import EvalConfig
        >>> config = EvalConfig(["run", "resnet50"], sets={"real": "real:imagenet/val"})
        >>> config.sets
        {'real': 'real:imagenet/val'}
    """

    model: list[str] | str
    _: KW_ONLY
    images: ImagesConfig | None = None
    sets: dict[str, Any] = field(default_factory=dict)
    teacher: TeacherConfig | None = None
    checkpoint: str | None = None
    class_names: str | None = None
    input_size: int | None = None
    out: str | None = None
    redo: bool = False
    batch_size: int = 128
    num_workers: int = 2
    device: str | None = None

    def __post_init__(self) -> None:
        require_whole(1, "input_size", self.input_size)
        require_whole(1, "batch_size", self.batch_size)
        require_whole(0, "num_workers", self.num_workers)
        settle_paths(self, "checkpoint", "class_names", "out")
        _require_models(models_of(self))
        if len(models_of(self)) > 1:
            _refuse_for_several(self)
        if not isinstance(self.sets, Mapping) or not all(
            isinstance(name, str) and name for name in self.sets
        ):
            raise ConfigError("sets: give sets by their names, e.g. {val: photos/val}")
        if self.images is not None and _IMAGES in self.sets:
            raise ConfigError(
                f"sets.{_IMAGES}: --images.root has that name already; give the set another"
            )
        if not sets_of(self):
            raise ConfigError(
                "images.root: give the images to evaluate on, e.g. --images.root photos/val, or "
                "several sets by name, e.g. --sets.val photos/val"
            )


def models_of(config: EvalConfig) -> list[str]:
    """All models, as the user calls them."""
    return [config.model] if isinstance(config.model, str) else list(config.model)


def sets_of(config: EvalConfig) -> dict[str, SetConfig]:
    """All sets by name.

    Raises:
        ConfigError: one is described as none is.
    """
    own = {} if config.images is None else {_IMAGES: config.images}
    return {name: parse_set(name, value) for name, value in {**own, **config.sets}.items()}


class EvalProgress:
    """Is told how an evaluation goes; this one says nothing."""

    def remark(self, text: str) -> None:
        """What the user may want to know, a sentence."""

    def begin(self, what: str, total: int) -> None:
        """A pass over so many images begins."""

    def advance(self, count: int) -> None:
        """So many more images are done."""

    def reuse(self, what: str) -> None:
        """A result of the file is used; nothing is computed for it."""


def evaluate(config: EvalConfig, progress: EvalProgress | None = None) -> list[EvalResult]:
    """Measure every model on every set; the results of a set together, models in their order.

    Raises:
        ConfigError: a model cannot be loaded or has no classes, a set has no images that it knows,
            or both do not fit; nothing is computed then.
        ImageError: an image cannot be read.
        TeacherError: the teacher's output is not finite.
        RunError: `out` cannot be written.

    Example:
        >>> from fkd import EvalConfig, ImagesConfig, TeacherConfig, evaluate
        >>> (result,) = evaluate(
        ...     EvalConfig(
        ...         "test_resnet",
        ...         checkpoint="teacher.safetensors",
        ...         images=ImagesConfig(root="photos", format="flat"),
        ...         teacher=TeacherConfig("test_resnet", checkpoint="teacher.safetensors"),
        ...     )
        ... )
        >>> result.num_images, result.agreement
        (15, 100.0)
    """
    told = progress or EvalProgress()
    device = resolve_device(config.device)
    file = ResultsFile(None if config.out is None else Path(config.out))
    known = [] if config.redo else file.read()
    passes = _open(config, told, device)
    file.prepare()
    results = []
    for one in passes:
        result = find_result(known, one.identity, one.place)
        if result is None:
            result = _measure(config, one, told, device)
            file.add(result)
        else:
            told.reuse(one.what)
            result = _rename(result, one, file)
        results.append(result)
    return results


def _rename(result: EvalResult, planned: "_Planned", file: ResultsFile) -> EvalResult:
    """A result of the file as that of this pass, also where it has other names there."""
    if result.place == planned.place:
        return result
    model, set_name, teacher = planned.place
    result = replace(result, model=model, set=set_name, teacher=teacher)
    file.add(result)
    return result


@dataclass(frozen=True)
class _Planned:
    """A pass, and what its result depends on."""

    run: Pass
    model: str
    kind: str
    identity: dict[str, Any]

    @property
    def what(self) -> str:
        """What people call it."""
        return f"{self.model} on {self.run.set_name}"

    @property
    def place(self) -> tuple[str, str, str | None]:
        reference = self.run.reference
        teacher = None if reference is None else reference.title
        return self.model, self.run.set_name, teacher


def _require_models(models: list[str]) -> None:
    if not models or not all(isinstance(model, str) and model for model in models):
        raise ConfigError(
            f"model: give the folder of a finished run, or a model name, not {models}"
        )
    for model in models:
        if models.count(model) > 1:
            raise ConfigError(f"model: {model} is given twice")


def _refuse_for_several(config: EvalConfig) -> None:
    for name in ("checkpoint", "class_names"):
        if getattr(config, name) is not None:
            raise ConfigError(
                f"{name}: is of one model, and {len(models_of(config))} are given; evaluate them "
                "one after the other with the same --out, or give run folders"
            )


def _open(config: EvalConfig, told: EvalProgress, device: torch.device) -> list[_Planned]:
    """All passes, sets first, with everything checked."""
    models = models_of(config)
    loaded = {model: load_classifier(model, config) for model in models}
    weights = {model: weights_sha256(of_one.model.state_dict()) for model, of_one in loaded.items()}
    reference = None if config.teacher is None else load_reference(config.teacher, device)
    passes, sets = [], sets_of(config)
    for set_name, of_set in sets.items():
        source = _open_set(set_name, of_set)
        images = identify_images(source)
        for remark in (*remarks_of(source), describe_subset(source, of_set.kind)):
            if remark is not None:
                told.remark(remark)
        for model, of_one in loaded.items():
            try:
                one = _plan(model, of_one, set_name, source, of_set, reference)
                one = replace(one, is_last=model == models[-1])
            except ConfigError as error:
                if len(loaded) * len(sets) == 1:
                    raise
                raise ConfigError(f"{model} on {set_name}: {error}") from error
            identity = _identity(one, of_set, weights[model], images)
            passes.append(_Planned(one, model, of_set.kind, identity))
    return passes


def _open_set(name: str, config: SetConfig) -> ImageSource:
    try:
        return open_source(config)
    except ConfigError as error:
        if name == _IMAGES:
            raise
        raise ConfigError(f"sets.{name}: {error}") from error


def load_classifier(model: str, config: EvalConfig) -> LoadedModel:
    """The model that a word means, with the names of its classes.

    Raises:
        ConfigError: there is no such model, it has no classes, or the names do not fit it.
    """
    loaded = find_model(model, config.checkpoint, input_size=config.input_size)
    if loaded.num_classes == 0 or isinstance(loaded.model, Embedder):
        raise ConfigError(
            f"{model} gives embeddings and no classes, so it has no accuracy of its own; measure "
            f"what its features are worth by `fkd probe {model}`"
        )
    try_network(loaded.model, loaded.preprocessing, f"model {loaded.name}")
    if config.class_names is None:
        return replace(
            loaded, class_names=loaded.class_names or numbered_classes(loaded.num_classes)
        )
    names = read_class_names(config.class_names)
    if len(names) != loaded.num_classes:
        raise ConfigError(
            f"class_names: {config.class_names} names {len(names)} classes, but {model} has "
            f"{loaded.num_classes}; give one name per output"
        )
    return replace(loaded, class_names=names)


def _plan(
    model: str,
    loaded: LoadedModel,
    set_name: str,
    source: ImageSource,
    config: SetConfig,
    reference: Reference | None,
) -> Pass:
    names = loaded.class_names or []
    truth = find_truth(source, config.kind, names, model, may_lack_classes=reference is not None)
    shared = None
    if reference is not None:
        shared = share_classes(names, truth.outputs, reference.teacher.class_names, model)
    return Pass(
        loaded=loaded,
        owner=model,
        set_name=set_name,
        source=source,
        truth=truth,
        reference=reference,
        shared=shared,
    )


def _identity(one: Pass, config: SetConfig, weights: str, images: dict[str, Any]) -> dict[str, Any]:
    """What a result depends on, in values of JSON."""
    names = json.dumps(one.loaded.class_names).encode()
    return {
        "network": one.loaded.name,
        "weights_sha256": weights,
        "classes_sha256": hashlib.sha256(names).hexdigest(),
        "preprocessing": one.loaded.preprocessing.to_json(),
        "kind": config.kind,
        "images": images,
        "truth_sha256": one.truth.sha256,
        "teacher": None if one.reference is None else one.reference.identity,
    }


def _measure(
    config: EvalConfig, planned: _Planned, told: EvalProgress, device: torch.device
) -> EvalResult:
    """The result of a pass."""
    one, started = planned.run, time.perf_counter()
    told.begin(planned.what, len(one.truth.chosen))
    predictions, comparison = run_pass(
        one,
        device=device,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        progress=told.advance,
    )
    model, set_name, teacher = planned.place
    return EvalResult(
        model=model,
        set=set_name,
        network=one.loaded.name,
        num_classes=len(one.truth.class_names),
        root=one.source.root,
        kind=planned.kind,
        num_images=len(one.truth.chosen),
        num_left_out=one.truth.num_left_out,
        reason=one.truth.reason if one.truth.num_left_out else "",
        teacher=teacher,
        num_shared_classes=None if one.shared is None else len(one.shared),
        seconds=round(time.perf_counter() - started, 3),
        identity=planned.identity,
        **summarize(predictions, one.truth),
        **summarize_comparison(comparison),
    )
