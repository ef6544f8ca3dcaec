"""The teacher's accuracy on a sample of the images, measured before it labels anything.

A wrong normalization or class order costs accuracy and raises no error, so it is measured wherever
the images have true classes that the teacher's classes match by name.
"""

import math
from dataclasses import dataclass

import numpy as np

from fkd.crops.records import CropRecords
from fkd.data.class_sets import known_labels, labels_of
from fkd.data.numbered import class_names_among
from fkd.data.sources import ImageSource, load, spread_images
from fkd.errors import ConfigError, ImageError, TeacherError
from fkd.labeling.pipeline import ImageRow, Parallelism, PreparedImage, TeacherInput, run_stages
from fkd.models.classes import match_classes
from fkd.models.ensemble import TeacherEnsemble
from fkd.models.numerics import Autocast

_DEVIATIONS = 2  # standard deviations of a sample's accuracy that may be chance
_CAUSES = (
    "Likely causes: too few epochs of its training, another input size than there "
    "(--teacher.input_size), classes in another order (--teacher.class_names), other weights "
    "(--teacher.checkpoint), or another normalization (--teacher.mean, --teacher.std)"
)


@dataclass(frozen=True)
class TeacherAccuracy:
    """The teacher's accuracy on a sample of the images.

    Attributes:
        num: images in the sample; 0 if nothing could be measured.
        top1: share of them whose most probable class is the true one, or one of several, among all
            classes of the teacher.
        reason: why nothing was measured.
        num_classes: classes of the teacher, among which it chooses; as many for each right one.
    """

    num: int
    top1: float
    reason: str = ""
    num_classes: int = 0

    def __str__(self) -> str:
        if self.num == 0:
            return f"not measured: {self.reason}"
        return f"top-1 {self.top1:.1%} on {self.num} of these images (center crop)"


def measure_accuracy(
    source: ImageSource,
    teachers: TeacherEnsemble,
    num_images: int = 256,
    *,
    autocast: Autocast | None = None,
    parallelism: Parallelism = Parallelism(),  # noqa: B008 - frozen
) -> TeacherAccuracy:
    """Top-1 of the teachers on images spread evenly over the source, center crop.

    The crop is the share of the image that the first teacher was evaluated with (its crop_pct).
    Images that cannot be read or have no class are left out.
    """
    if num_images == 0:
        return TeacherAccuracy(0, 0.0, "accuracy_images is 0")
    names = class_names_among(source, teachers.class_names)
    if names is None:
        return TeacherAccuracy(0, 0.0, "the images have no classes")
    try:
        output_of = np.array(match_classes(names, teachers.class_names), np.int64)
    except ConfigError as error:
        return TeacherAccuracy(0, 0.0, str(error))
    places = _sample(source, num_images)
    labels = {source.key(i): set(known_labels(source, i, output_of).tolist()) for i in places}

    def prepare(i: int) -> PreparedImage:
        return _center(source, i, teachers.teachers[0].preprocessing.crop_pct)

    def are_right(batch: TeacherInput) -> list[bool]:
        truths = [labels[row.key] for row in batch.starting if row.records is not None]
        outputs = teachers.probabilities(batch.views, autocast=autocast)
        predicted = outputs[: len(truths)].argmax(dim=1).tolist()
        return [p in right for right, p in zip(truths, predicted, strict=True)]

    batches = run_stages(places, prepare, teachers.views, are_right, parallelism)
    right = [is_right for batch in batches for is_right in batch]
    if not right:
        return TeacherAccuracy(0, 0.0, "none of the sampled images can be read")
    per_image = float(np.mean([len(classes) for classes in labels.values()]))
    num_classes = max(1, round(len(teachers.class_names) / per_image))
    return TeacherAccuracy(len(right), float(np.mean(right)), num_classes=num_classes)


def describe_weakness(report: TeacherAccuracy) -> str:
    """What to say of a teacher that is less accurate than teachers are; "" of any other.

    A teacher should be right at least half way from chance to always: on 75 % of the images of two
    classes, on 50 % of a thousand. One that is below by chance of the sample alone is not named.
    """
    if report.num == 0 or report.num_classes < 2:
        return ""
    chance = 1.0 / report.num_classes
    expected = (1.0 + chance) / 2
    deviation = math.sqrt(expected * (1.0 - expected) / report.num)
    if report.top1 >= expected - _DEVIATIONS * deviation:
        return ""
    spread = _DEVIATIONS * math.sqrt(chance * (1.0 - chance) / report.num)
    guesses = ", no more than by guessing" if report.top1 <= chance + spread else ""
    return (
        f"the teacher is right on {report.top1:.1%} of {report.num} of these images{guesses}, and "
        f"students learn what it says. {_CAUSES}; --min_accuracy refuses such a teacher"
    )


def require_accuracy(report: TeacherAccuracy, minimum: float | None) -> None:
    """Refuse a teacher that is less accurate than the user demands.

    Raises:
        TeacherError: the accuracy is lower.
        ConfigError: the accuracy cannot be measured.
    """
    if minimum is None:
        return
    if report.num == 0:
        raise ConfigError(
            f"min_accuracy: the accuracy cannot be measured ({report.reason}); leave it out"
        )
    if report.top1 < minimum:
        raise TeacherError(
            f"the teacher is right on {report.top1:.1%} of {report.num} of these images, less than "
            f"min_accuracy {minimum:.1%}. {_CAUSES}"
        )


def _sample(source: ImageSource, count: int) -> list[int]:
    """Images with a class, spread evenly over the source."""
    return [i for i in spread_images(source, count) if len(labels_of(source, i))]


def _center(source: ImageSource, i: int, crop_pct: float) -> PreparedImage:
    """The center square of an image as a record, as in evaluation but cut before it is resized."""
    key, name = source.key(i), source.name(i)
    try:
        image = load(source, i).image
    except ImageError as error:
        return PreparedImage(0, ImageRow(key, name, reason=str(error)), None)
    height, width = image.shape[1], image.shape[2]
    side = max(1, round(min(height, width) * crop_pct))
    box = np.array([[(height - side) // 2, (width - side) // 2, side, side]])
    records = CropRecords(box, np.zeros(1, bool))
    return PreparedImage(0, ImageRow(key, name, size=(height, width), records=records), image)
