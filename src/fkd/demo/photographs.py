"""First half: an ImageNet teacher labels real photographs; the labels are checked and shown."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fkd.data.sources import ImagesConfig, open_source
from fkd.demo.images import write_photographs
from fkd.labeling.config import LabelConfig
from fkd.labeling.run import Progress, label
from fkd.labeling.store_checks import CheckReport, spot_check
from fkd.models.classes import display_names
from fkd.models.teacher import TeacherConfig, load_teachers
from fkd.store import LabelStore, Problem, verify_store
from fkd.viewing.page import PageConfig, render_page

TEACHER = TeacherConfig(name="tf_efficientnet_lite0")
NUM_CROPS = 20
_SPOT_CHECKS = 64


@dataclass(frozen=True)
class Photograph:
    """The label of one photograph, averaged over all its stored crops.

    Attributes:
        name: file name.
        size: height and width, pixels.
        classes: readable names of the three most probable classes.
        probabilities: theirs.
    """

    name: str
    size: tuple[int, int]
    classes: list[str]
    probabilities: list[float]


@dataclass(frozen=True)
class PhotographsResult:
    """The labeled photographs.

    Attributes:
        photographs: one per image.
        problems: what `verify_store` found; empty for an intact store.
        spot_checks: labels of random crops computed again, against the stored ones.
        bytes_per_crop: of the whole store.
        page: the HTML page with all crops.
    """

    photographs: list[Photograph]
    problems: list[Problem]
    spot_checks: CheckReport
    bytes_per_crop: float
    page: Path


def label_photographs(out: Path, progress: Progress | None = None) -> PhotographsResult:
    """Label the photographs into `out`, verify the store against the teacher, write the page."""
    images = ImagesConfig(root=str(out / "photographs"))
    write_photographs(out / "photographs")
    path = out / "photograph-labels"
    config = LabelConfig(
        images=images, out=str(path), teacher=TEACHER, num_crops=NUM_CROPS, spot_checks=0
    )
    store, source = label(config, progress).store, open_source(images)
    spot_checks = spot_check(store, source, load_teachers([TEACHER]), _SPOT_CHECKS)
    page = out / "photographs.html"
    page.write_text(render_page(store, source, PageConfig(num_images=len(source))), "utf-8")
    return PhotographsResult(
        photographs=[_describe(store, key) for key in store],
        problems=verify_store(path),
        spot_checks=spot_checks,
        bytes_per_crop=store.num_bytes / (store.num_images * store.num_crops),
        page=page,
    )


def _describe(store: LabelStore, key: bytes) -> Photograph:
    entry = store[key]
    mean = entry.decode().mean(0).numpy()
    best = np.argsort(-mean, kind="stable")[:3]
    names = display_names(store.class_names)
    return Photograph(
        name=key.decode(),
        size=(int(entry.size[0]), int(entry.size[1])),
        classes=[names[c] for c in best],
        probabilities=mean[best].tolist(),
    )
