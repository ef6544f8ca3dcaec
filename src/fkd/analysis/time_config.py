"""The settings of the analysis of time, and who is told of its progress."""

from dataclasses import dataclass
from typing import Literal

from fkd.checks import require_whole
from fkd.data.sources import ImagesConfig, refuse_same_folder
from fkd.errors import ConfigError
from fkd.models.teacher import TeacherConfig
from fkd.training.config import StudentConfig
from fkd.userfiles import settle_paths

METHODS_OF_FIGURE_5 = ("vanilla", "kd", "relabel", "fkd")
"""The methods that can be timed, in the order of the figure."""


@dataclass(frozen=True, kw_only=True)
class TimeConfig:
    """What is measured.

    Attributes:
        images: the images that epochs are of; a sample of them is trained on.
        student: the network to train.
        teacher: the online teacher of kd.
        store: a label store of the images, for fkd; by default labels are made up, 200 crops of
            each image, ms:5.
        maps: a store of label maps of the images, for relabel; by default maps are made up, 15 x 15
            cells.
        methods: of vanilla, kd, relabel and fkd; by default all that there is something for (kd
            needs a teacher, vanilla classes).
        crops_per_image: m of fkd, one row each; by default 1, 2, 4 and 8, as far as the store has
            so many.
        batch_size: crops per step; by default as `fkd train` has it.
        num_images: of an epoch; by default those that there are.
        sampled_images: images to train on, again and again, so that their files come from memory.
        device: cpu, cuda, cuda:1, mps, xpu; by default a GPU if there is one.
        amp: compute in bf16 or fp16 instead of float32.
        num_workers: threads or processes that load batches, by default as `fkd train` has them; 0
            measures only the loader that works inline.
        workers: threads, processes, or as `fkd train` chooses (auto).
        steps: that count, of a turn; some before them do not.
        repeats: turns of each method, of which medians are taken.
        out: folder of time.svg, time.png and time.json.
    """

    images: ImagesConfig
    student: StudentConfig
    teacher: TeacherConfig | None = None
    store: str | None = None
    maps: str | None = None
    methods: tuple[str, ...] | None = None
    crops_per_image: tuple[int, ...] | None = None
    batch_size: int | None = None
    num_images: int | None = None
    sampled_images: int = 256
    device: str | None = None
    amp: Literal["no", "bf16", "fp16"] = "no"
    num_workers: int | None = None
    workers: Literal["auto", "threads", "processes"] = "auto"
    steps: int = 4
    repeats: int = 5
    out: str = "analysis"

    def __post_init__(self) -> None:
        settle_paths(self, "out", "store", "maps")
        refuse_same_folder(self.out, self.images)
        for name in ("batch_size", "num_images", "sampled_images", "steps", "repeats"):
            require_whole(1, name, getattr(self, name))
        require_whole(0, "num_workers", self.num_workers)
        for m in self.crops_per_image or ():
            require_whole(1, "crops_per_image", m)
        self._check_methods()

    def _check_methods(self) -> None:
        wanted = METHODS_OF_FIGURE_5 if self.methods is None else self.methods
        unknown = [name for name in wanted if name not in METHODS_OF_FIGURE_5]
        if unknown or not wanted:
            raise ConfigError(
                f"methods: {', '.join(unknown) or 'none'} cannot be timed; choose from "
                f"{', '.join(METHODS_OF_FIGURE_5)}"
            )
        if self.methods is not None and "kd" in wanted and self.teacher is None:
            raise ConfigError("teacher.name: method kd needs one: --teacher.name NAME")
        users = {"teacher": "kd", "maps": "relabel", "store": "fkd", "crops_per_image": "fkd"}
        for setting, method in users.items():
            if getattr(self, setting) is not None and method not in wanted:
                raise ConfigError(f"{setting}: only {method} uses it; leave it out")


class TimeProgress:
    """Is told what a measurement does; this base class ignores every call."""

    def remark(self, text: str) -> None:
        """Something that the user may want to know, in one sentence."""

    def warn(self, text: str) -> None:
        """Something that is probably wrong, and the way out."""

    def started(self, num_turns: int) -> None:
        """Everything is open; so many turns follow."""

    def advanced(self) -> None:
        """A turn is done."""
