"""Does a finished store belong to these images and to this teacher?"""

from collections.abc import Callable, Sequence

import numpy as np

from fkd.data.decode import DECODER
from fkd.data.identity import is_labeled_file
from fkd.data.joining import join_store
from fkd.data.sources import ImageSource, fingerprint
from fkd.errors import CropMismatch, ImageError, StoreMismatch
from fkd.labeling.audit import ProbeReport, audit_probes
from fkd.labeling.config import resolve_device
from fkd.labeling.numerics import exact_numerics
from fkd.labeling.pipeline import Parallelism
from fkd.models.teacher import Teacher, TeacherConfig, TeacherEnsemble, load_teachers
from fkd.store import LABELED, LabelStore
from fkd.store.canonical import differences

_SHOWN = 3
_CHUNK = 256  # images whose facts are read at a time


def check_images(
    store: LabelStore,
    source: ImageSource,
    progress: Callable[[int], None] = lambda num_images: None,
) -> None:
    """Join a store with its images, and compare the checksum of every image file.

    Args:
        store: the labels.
        source: the images.
        progress: called with the number of images that were just compared.

    Raises:
        StoreMismatch: images are missing, extra or renamed.
        CropMismatch: files were changed since they were labeled, or cannot be read any more.
    """
    join_store(source, store)  # a position in the source is a row of the store
    changed: list[str] = []
    for first in range(0, len(source), _CHUNK):
        rows = range(first, min(first + _CHUNK, len(source)))
        facts = store.images(np.array(rows))
        changed += [
            source.name(rows[j])
            for j in np.flatnonzero(facts.status == LABELED).tolist()
            if not is_labeled_file(facts, j, *_fingerprint(source, rows[j]))
        ]
        progress(len(rows))
    if changed:
        raise CropMismatch(
            f"{len(changed)} of {len(source)} image files are not those that were labeled, the "
            f"first: {', '.join(changed[:_SHOWN])}; restore the originals, or label again"
        )


def load_teachers_of(
    store: LabelStore, configs: Sequence[TeacherConfig], device: str | None = None
) -> TeacherEnsemble:
    """The teachers of a configuration, if they are those that labeled a store.

    Raises:
        StoreMismatch: they are others; names the fields.
        ConfigError: a teacher cannot be loaded.
    """
    members: list[Teacher] = []
    for config in configs:
        members += load_teachers([config]).teachers
    identity = [member.identity() for member in members]
    found = list(differences(store.config["teachers"], identity, "teachers"))
    if found:
        raise StoreMismatch(f"{store.path} was labeled by another teacher: {'; '.join(found)}")
    return TeacherEnsemble(members, store.class_names).to(resolve_device(device))


def audit_store(
    store: LabelStore,
    source: ImageSource,
    teachers: TeacherEnsemble,
    probes: int = 64,
    seed: int = 0,
) -> ProbeReport:
    """The probe audit of a finished store, computed as exactly as it was labeled."""
    with exact_numerics() as passes:
        return audit_probes(
            store,
            source,
            teachers,
            probes,
            seed,
            autocast=store.config["numerics"]["autocast"],
            parallelism=Parallelism(passes=passes),
        )


def describe_decoder_change(store: LabelStore) -> str:
    """How today's image decoder differs from the one that a store was made with; "" if it does not.

    Another version is no error: its pixels are nearly the same, and an audit measures how nearly.
    """
    return "; ".join(differences(store.config["decoder"], DECODER, "decoder"))


def _fingerprint(source: ImageSource, i: int) -> tuple[int, int]:
    """Checksum and length of an image file; an impossible one where it cannot be read."""
    try:
        return fingerprint(source.read(i))
    except ImageError:
        return -1, -1
