"""`fkd eval`: the accuracy of a student, or of any model."""

import difflib
import os
from dataclasses import replace

import timm
import torch

from fkd.cli.console import make_console, print_remark
from fkd.data.sources import ImagesConfig, open_source, remarks_of
from fkd.errors import ConfigError
from fkd.evaluation.accuracy import LabeledImages, measure_accuracy
from fkd.models.classes import numbered_classes, read_class_names
from fkd.models.devices import resolve_device
from fkd.models.names import parse_model_name, torchvision_names
from fkd.models.trial import try_network
from fkd.models.zoo import LoadedModel, load_model
from fkd.userfiles import home_path

_ALIKE = 0.8  # of two names; resnet5 and resnet50 are, run and gernet_s are not


def evaluate(
    model: str,
    *,
    images: ImagesConfig,
    checkpoint: str | None = None,
    class_names: str | None = None,
    input_size: int | None = None,
    batch_size: int = 128,
    num_workers: int = 2,
    device: str | None = None,
) -> None:
    """Measure top-1 and top-5 accuracy on images in class folders, matched by name.

    Args:
        model: folder of a finished run; or a timm model, or "torchvision/NAME".
        images: the images.
        checkpoint: weights for the named model; by default its pretrained ones.
        class_names: a file with the names of the outputs (JSON list, or one per line), where they
            are not known.
        input_size: side of the crops, pixels; by default the model's own.
        batch_size: images in a forward pass.
        num_workers: threads that decode images.
        device: cpu, cuda, cuda:1, mps, xpu; by default cuda if there is one.
    """
    where = resolve_device(device)
    loaded = _load(model, checkpoint, class_names, input_size)
    try_network(loaded.model, loaded.preprocessing, f"model {loaded.name}")
    names = loaded.class_names or numbered_classes(loaded.num_classes)
    chosen = LabeledImages.match(open_source(images), names)
    console = make_console()
    for remark in remarks_of(chosen.source):
        print_remark(console, remark)
    accuracy = measure_accuracy(
        loaded.model.to(where).to(memory_format=torch.channels_last),
        chosen,
        loaded.preprocessing,
        device=where,
        batch_size=batch_size,
        num_workers=num_workers,
    )
    expected = loaded.preprocessing
    console.print(
        f"model     {model}: {loaded.name}, {loaded.num_classes:,} classes, {expected.input_size} "
        f"pixels, {expected.interpolation}"
    )
    console.print(f"images    {accuracy.num_images:,} in {images.root}")
    if accuracy.num_skipped:
        console.print(f"left out  {accuracy.num_skipped:,} images: the model lacks their class")
    console.print(f"accuracy  top-1 {accuracy.top1:.2f} %, top-5 {accuracy.top5:.2f} %")


def _load(
    model: str, checkpoint: str | None, class_names: str | None, input_size: int | None
) -> LoadedModel:
    """The model that the options mean, with the names of its classes.

    Raises:
        ConfigError: there is no such model, or the names do not fit it.
    """
    folder = home_path(model)
    if folder.is_dir():
        loaded = load_model(checkpoint=str(folder), input_size=input_size)
    else:
        _require_name(model)
        loaded = load_model(
            model, pretrained=checkpoint is None, checkpoint=checkpoint, input_size=input_size
        )
    if class_names is None:
        return loaded
    names = read_class_names(class_names)
    if len(names) != loaded.num_classes:
        raise ConfigError(
            f"class_names: {class_names} names {len(names)} classes, but {model} has "
            f"{loaded.num_classes}; give one name per output"
        )
    return replace(loaded, class_names=names)


def _require_name(model: str) -> None:
    """Refuse what is neither a folder nor the name of a network.

    Raises:
        ConfigError: says both.
    """
    try:
        parse_model_name(model)
    except ConfigError as error:
        known = [*timm.list_models(), *(f"torchvision/{name}" for name in torchvision_names())]
        architecture = model.partition(".")[0]
        is_file = os.path.isfile(home_path(model))
        if is_file or difflib.get_close_matches(architecture, known, n=1, cutoff=_ALIKE):
            raise
        raise ConfigError(
            f"model: there is no folder {model} here, and no network of that name; give the "
            "folder of a finished run, a timm model, or torchvision/NAME"
        ) from error
