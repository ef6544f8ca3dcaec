"""How much is measured: the same rows, quickly or thoroughly."""

from dataclasses import dataclass, field

from fkd.models import TeacherConfig

STUDENT = "mobilenetv3_small_100"
TEACHER = TeacherConfig(name="tf_efficientnet_lite0")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The size of every measurement.

    Attributes:
        repeats: of the slow rows (training, labeling, start-up).
        cheap_repeats: of the others.
        photographs: JPEG files that loaders read.
        side: their height, pixels, give or take a seventh; they are 1.2 times as wide.
        crop_size: side of the crops.
        images: images in the store of generated labels.
        crops: stored per image.
        read_batches: batches of 64 images in one measurement of reading.
        batch_size: crops in a batch of a loader and in a training step.
        loader_batches: batches in one measurement of a loader.
        loss_crops: logits in a batch of the loss.
        many_classes: of a wide head.
        steps: training steps in one measurement.
        student: the network that is trained.
        teacher: the one that labels, and is asked online.
        labeled: images and crops of each in one measurement of labeling.
        opened: images of the store that is opened.
    """

    repeats: int = 5
    cheap_repeats: int = 9
    photographs: int = 64
    side: int = 390
    crop_size: int = 224
    images: int = 512
    crops: int = 200
    read_batches: int = 20
    batch_size: int = 64
    loader_batches: int = 4
    loss_crops: int = 1024
    many_classes: int = 21_841
    steps: int = 4
    student: str = STUDENT
    teacher: TeacherConfig = field(default_factory=lambda: TEACHER)
    labeled: tuple[int, int] = (8, 32)
    opened: int = 1_281_167


QUICK = Scale()
"""About five minutes on two cores."""

FULL = Scale(
    repeats=11,
    cheap_repeats=21,
    images=2048,
    read_batches=50,
    loader_batches=12,
    steps=10,
    labeled=(16, 64),
)
"""What the scripts in `benchmarks/` measure."""
