"""`fkd eval`: the accuracy of a student, or of any model."""

from dataclasses import replace

import torch

from fkd.cli.console import make_console, print_remark
from fkd.data.sources import ImagesConfig, open_source, remarks_of
from fkd.errors import ConfigError
from fkd.evaluation.accuracy import LabeledImages, measure_accuracy
from fkd.models.architectures.embedders import Embedder
from fkd.models.classes import numbered_classes, read_class_names
from fkd.models.devices import resolve_device
from fkd.models.lookup import find_model
from fkd.models.trial import try_network
from fkd.models.zoo import LoadedModel


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
    if loaded.num_classes == 0 or isinstance(loaded.model, Embedder):
        raise ConfigError(
            f"{model} gives embeddings and no classes, so it has no accuracy of its own; measure "
            f"what its features are worth by `fkd probe {model}`"
        )
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
    loaded = find_model(model, checkpoint, input_size=input_size)
    if class_names is None:
        return loaded
    names = read_class_names(class_names)
    if len(names) != loaded.num_classes:
        raise ConfigError(
            f"class_names: {class_names} names {len(names)} classes, but {model} has "
            f"{loaded.num_classes}; give one name per output"
        )
    return replace(loaded, class_names=names)
