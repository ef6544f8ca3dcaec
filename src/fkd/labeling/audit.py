"""Are stored labels the teacher's own word on those very crops? Ask it again and compare."""

from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from fkd.crops.records import CropRecords
from fkd.crops.replay import whole_image
from fkd.data.canary import sample_positions
from fkd.data.identity import load_labeled, load_partners
from fkd.data.sources import ImageSource
from fkd.errors import StoreMismatch
from fkd.labeling.labels import TeacherLabeler
from fkd.labeling.pipeline import ImageRow, Parallelism, PreparedImage, run_stages
from fkd.labels.codecs import Encoded, decode
from fkd.models.numerics import Autocast
from fkd.models.teacher import TeacherEnsemble
from fkd.store import LABELED, LabelStore

_SMALLEST = 1e-12  # probabilities are clamped to this before a logarithm
_LEAST_AGREEMENT = 0.9
_LARGEST_KL = {None: 1e-4, "bf16": 2e-2, "fp16": 2e-3}  # nats, mean over crops


@dataclass(frozen=True)
class ProbeReport:
    """How labels in a store compare with labels computed anew.

    Attributes:
        num: crops compared.
        top1_agreement: share of them whose most probable class is the same.
        mean_kl: mean of KL(new || stored), nats.
        max_kl: the largest of them.
        max_abs_diff: largest difference of a probability.
    """

    num: int
    top1_agreement: float
    mean_kl: float
    max_kl: float
    max_abs_diff: float

    def __str__(self) -> str:
        return (
            f"{self.num} crops labeled anew: top-1 agreement {self.top1_agreement:.1%}, "
            f"KL mean {self.mean_kl:.1e} max {self.max_kl:.1e}, "
            f"largest difference of a probability {self.max_abs_diff:.1e}"
        )


def audit_probes(
    store: LabelStore,
    source: ImageSource,
    teachers: TeacherEnsemble,
    probes: int = 64,
    seed: int = 0,
    *,
    autocast: Autocast | None = None,
    parallelism: Parallelism = Parallelism(),  # noqa: B008 - frozen
) -> ProbeReport:
    """Decode, crop, flip and label some crops (or cells of label maps) once more, and compare.

    Args:
        store: the labels and records.
        source: the images that were labeled.
        teachers: the models that labeled them.
        probes: crops to compare, spread over all images; unreadable images are left out.
        seed: picks the crops.
        autocast: as in labeling.
        parallelism: batches may be of another size than in labeling.

    Raises:
        CropMismatch: an image was changed since it was labeled.
        StoreMismatch: the images are not those of the store.
    """
    rows, crops = sample_positions(seed, "audit", probes, store.num_images, store.num_crops)
    readable = store.images(rows).status == LABELED
    rows, crops = rows[readable], crops[readable]
    if not len(rows):
        return ProbeReport(0, 1.0, 0.0, 0.0, 0.0)
    stored = store.read(rows, crops[:, None])

    def prepare(probe: int) -> PreparedImage:
        row = int(rows[probe])
        image = load_labeled(store, source, row)
        records = stored.records[probe]
        if store.grid is not None:
            records = whole_image((image.shape[1], image.shape[2]))
        partners = load_partners(store, source, records, crops[probe : probe + 1])
        return replace(_prepare(image, source, row, records), partners=partners)

    labeler = TeacherLabeler.of(store, teachers, autocast)
    batches = list(run_stages(range(len(rows)), prepare, teachers.views, labeler, parallelism))
    cells = labeler.labels_per_crop
    wanted = np.arange(len(rows)) * cells + (crops if cells > 1 else 0)
    labels = Encoded.concatenate([batch.label for batch in batches])[wanted]
    return _compare(_decode(store, labels), _decode(store, stored.label))


def require_agreement(report: ProbeReport, store: LabelStore, *, same_decoder: bool = True) -> None:
    """Refuse labels that are not the teacher's.

    Args:
        report: of an audit of this store.
        store: says with which precision it was made.
        same_decoder: whether images are decoded as they were then; if not, only the most probable
            classes must agree.

    Raises:
        StoreMismatch: too many differ, or by too much.
    """
    limit = _LARGEST_KL[store.config["numerics"]["autocast"]]
    # A hard label that differs costs infinitely many nats, so its agreement alone is judged.
    close = report.mean_kl <= limit or store.codec.name == "hard" or not same_decoder
    if report.top1_agreement < _LEAST_AGREEMENT or not close:
        raise StoreMismatch(
            f"{store.path} does not hold this teacher's labels of these crops ({report}; at least "
            f"{_LEAST_AGREEMENT:.0%} and a mean of at most {limit:g} are expected); do not train "
            "from it, label again into a new folder"
        )


def _prepare(image: Tensor, source: ImageSource, row: int, records: CropRecords) -> PreparedImage:
    size = (image.shape[1], image.shape[2])
    facts = ImageRow(source.key(row), source.name(row), size=size, records=records)
    return PreparedImage(0, facts, image)


def _decode(store: LabelStore, labels: Encoded) -> Tensor:
    return decode(store.codec, labels, store.num_classes).double()


def _compare(new: Tensor, stored: Tensor) -> ProbeReport:
    """Compare decoded labels (n, C)."""
    p, q = new.clamp(min=_SMALLEST), stored.clamp(min=_SMALLEST)
    kl = (p * (p / q).log() - p + q).sum(dim=1)  # the last two cancel, up to rounding of the sums
    # Equal probabilities after rounding are no disagreement, whichever class is listed first.
    chosen = stored.gather(1, new.argmax(dim=1, keepdim=True))[:, 0]
    agree = chosen == stored.max(dim=1).values
    return ProbeReport(
        num=len(new),
        top1_agreement=float(agree.double().mean()),
        mean_kl=float(kl.mean()),
        max_kl=float(kl.max()),
        max_abs_diff=float((new - stored).abs().max()),
    )
