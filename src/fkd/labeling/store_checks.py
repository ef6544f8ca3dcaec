"""Does a store belong to these images and to this teacher?

Image files are compared by their checksums. Labels are spot-checked: the teacher computes some of
them again from the stored records, and they are compared with the stored ones.

Which of two equally probable classes a codec keeps depends on the last bits of an output, and these
on the machine. So a new label is made of the classes that are stored, and how much more probable an
omitted class is than they are is judged apart. Otherwise an exchange of two equal classes, where
one of the labels says 0 (`hard`, the K-th class of `mr:K`), would look like another label.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fkd.crops.replay import whole_image
from fkd.data.canary import sample_positions
from fkd.data.decode import DECODER
from fkd.data.identity import find_image, load_labeled
from fkd.data.joining import shared_rows
from fkd.data.sources import ImageSource
from fkd.errors import StoreMismatch
from fkd.labeling.labels import TeacherLabeler
from fkd.labeling.pipeline import ImageRow, Parallelism, PreparedImage, TeacherInput, run_stages
from fkd.labeling.standardize import recorded_in
from fkd.labels.comparison import (
    EmbeddingComparison,
    LabelComparison,
    compare,
    compare_embeddings,
)
from fkd.labels.encoded import Encoded
from fkd.labels.quantization import SCALED, dequantize_rows, quantize_rows
from fkd.labels.sampled import Sampled
from fkd.labels.targets import SoftTargets
from fkd.models.dense import DenseTeacher
from fkd.models.devices import resolve_device
from fkd.models.ensemble import TeacherEnsemble
from fkd.models.modules import TeacherModule
from fkd.models.numerics import exact_numerics
from fkd.models.single_teacher import Teacher
from fkd.models.teacher import TeacherConfig, load_teachers
from fkd.store import LABELED, LabeledCrops, LabelStore
from fkd.store.canonical import differences
from fkd.store.config import StoreConfig

_MIN_AGREEMENT = 0.9
# Means over labels of the divergence (nats) and of the lead of omitted classes (a probability).
_TOLERANCE = {None: 1e-4, "bf16": 2e-2, "fp16": 2e-3}
# Least mean cosine of embeddings, and what is enough where images are decoded otherwise.
_LEAST_COSINE = {None: 0.9999, "bf16": 0.99, "fp16": 0.999}
_LEAST_COSINE_OF_OTHER_PIXELS = 0.95
_NO_OUTPUTS = ("license", "standardization")  # of the members of a teacher's identity


@dataclass(frozen=True)
class SpotCheckReport:
    """How stored labels compare with labels computed again.

    Attributes:
        labels: the stored labels against new ones as reference. Top-1 agreement is that of new
            labels with the classes that the codec would keep now, all else that of new labels of
            the stored classes.
        omitted_lead: by how much the most probable omitted class is more probable than the least
            probable stored one (of `sampled:K`: than the threshold), mean over labels, in [0, 1]; 0
            where the right classes are stored.
    """

    labels: LabelComparison
    omitted_lead: float

    def __add__(self, other: "SpotCheckReport") -> "SpotCheckReport":
        """The report on the labels of both."""
        labels = self.labels + other.labels
        leads = self.labels.num * self.omitted_lead + other.labels.num * other.omitted_lead
        return SpotCheckReport(labels, leads / max(labels.num, 1))

    def __str__(self) -> str:
        return f"{self.labels}, lead of omitted classes {self.omitted_lead:.1e}"


CheckReport = SpotCheckReport | EmbeddingComparison


def spot_check(
    store: LabelStore,
    source: ImageSource,
    teachers: TeacherEnsemble,
    num: int = 64,
    seed: int = 0,
    *,
    parallelism: Parallelism | None = None,
) -> CheckReport:
    """Decode, crop, flip and label some crops (or cells of label maps) again, and compare.

    Computes as exactly as the store was labeled.

    Args:
        store: the labels and records.
        source: the images that were labeled.
        teachers: the models that labeled them.
        num: labels to compare, spread over all images that are there; unreadable ones are left out.
        seed: of the choice of crops.
        parallelism: by default as many passes as torch has threads; batches may be of another size
            than in labeling.

    Raises:
        CropMismatch: an image was changed since it was labeled.
        StoreMismatch: the images are not those of the store.
        TeacherError: the teacher's output is not finite.
    """
    available = shared_rows(source, store)
    rows, crops = sample_positions(seed, "spot check", num, len(available), store.num_crops)
    rows = available[rows]
    readable = store.images(rows).status == LABELED
    rows, crops = rows[readable], crops[readable]
    nothing = SpotCheckReport(LabelComparison.empty(), 0.0)
    report: CheckReport = nothing if store.is_of_classes else EmbeddingComparison.empty()
    if not len(rows):
        return report
    maps = None if store.grid is None else DenseTeacher(teachers.teachers[0])
    config = StoreConfig.parse(store.config, str(store.path))
    labeler = TeacherLabeler(config, teachers, maps)
    with exact_numerics() as passes:
        if parallelism is None:
            parallelism = Parallelism(passes=passes)
        checks = _SpotChecks(
            store, source, labeler, rows, crops, store.read(rows, crops[:, None]), parallelism
        )
        stream = run_stages(
            range(len(rows)), checks.prepare, teachers.views, checks.compare, parallelism
        )
        return sum(stream, start=report)


@dataclass(frozen=True)
class _SpotChecks:
    """The two stages of `spot_check`; every batch of crops is a shard, whose number places it.

    Attributes:
        rows: image of each check (n,), int64.
        crops: its crop (of label maps, its cell) (n,), int64.
        stored: what the store says of these, (n, 1).
    """

    store: LabelStore
    source: ImageSource
    labeler: TeacherLabeler
    rows: np.ndarray
    crops: np.ndarray
    stored: LabeledCrops
    parallelism: Parallelism

    def prepare(self, check: int) -> PreparedImage:
        """Load the image of a check."""
        row = int(self.rows[check])
        (key,) = self.store.keys([row])
        image = load_labeled(self.store, self.source, row)
        position = find_image(self.source, key)
        assert position is not None  # it was just loaded
        size = (image.shape[1], image.shape[2])
        records = self.stored.records[check] if self.store.grid is None else whole_image(size)
        facts = ImageRow(key, self.source.name(position), size=size, records=records)
        return PreparedImage(check // self.parallelism.batch_size, facts, image)

    def compare(self, batch: TeacherInput) -> CheckReport:
        """Compare the labels of a batch with the stored ones."""
        first = batch.shard * self.parallelism.batch_size
        checks = np.arange(first, first + len(batch.crops))
        cells = self.labeler.labels_per_crop
        places = (checks - first) * cells + (self.crops[checks] if cells > 1 else 0)
        outputs = self.labeler.outputs(batch.views).cpu()[torch.from_numpy(places)]
        return compare_outputs(self.store, outputs, self.stored[checks])


def compare_outputs(store: LabelStore, outputs: Tensor, stored: LabeledCrops) -> CheckReport:
    """Compare the stored labels of crops with outputs of the teacher for the same crops.

    Args:
        store: says how labels are compressed.
        outputs: what its codec encodes, float32 (n, C), or (n, T, C) of T teachers apart.
        stored: labels of these crops (n, 1).
    """
    codec, num_classes = store.codec, store.num_classes
    outputs = _as_stored(store, outputs)
    if not store.is_of_classes:
        kept = torch.as_tensor(stored.label.values).flatten(0, 1)
        return compare_embeddings(outputs, kept)
    label = codec.targets(stored.label, num_classes)
    if isinstance(codec, Sampled):
        return _compare_sampled(codec, outputs, stored.label, label)
    anew = compare(codec.targets(codec.encode(outputs), num_classes), label)
    if stored.label.ids is None:
        return SpotCheckReport(anew, 0.0)
    ids = torch.from_numpy(stored.label.ids).reshape(*outputs.shape[:-1], -1)
    preferred = codec.encode(_prefer(outputs, ids))
    same_classes = compare(codec.targets(preferred, num_classes), label)
    probabilities = outputs.softmax(-1) if codec.encodes == "logits" else outputs
    return SpotCheckReport(
        replace(same_classes, top1_agreement=anew.top1_agreement),
        float(_omitted_leads(probabilities, ids).mean()),
    )


def _compare_sampled(
    codec: Sampled, outputs: Tensor, stored: Encoded, label: SoftTargets
) -> SpotCheckReport:
    """Compare labels of drawn classes with what the teacher gives now for these classes.

    Which ones are drawn turns on the last bits of an output, and any may be drawn; but none that is
    more probable than the threshold may be missing.
    """
    assert stored.ids is not None
    ids = stored.ids.reshape(len(outputs), -1)
    expected, threshold = codec.values_of(outputs, ids)
    omitted = outputs.scatter(-1, torch.from_numpy(ids), 0.0).amax(-1).double()
    return SpotCheckReport(
        compare(codec.targets(expected, outputs.shape[-1]), label),
        float((omitted - torch.from_numpy(threshold)).clamp(min=0.0).mean()),
    )


def _as_stored(store: LabelStore, outputs: Tensor) -> Tensor:
    """Outputs as whole numbers with a scale, where the store holds such: they are coarse."""
    if store.value_dtype != SCALED:
        return outputs
    return torch.from_numpy(dequantize_rows(*quantize_rows(outputs.numpy())))


def _prefer(outputs: Tensor, ids: Tensor) -> Tensor:
    """Outputs (..., C) lowered so that the classes `ids` (..., K) are the K largest ones."""
    kept = outputs.gather(-1, ids)
    below = torch.nextafter(kept.amin(-1, keepdim=True), torch.tensor(-torch.inf))
    return torch.minimum(outputs, below).scatter(-1, ids, kept)


def _omitted_leads(probabilities: Tensor, ids: Tensor) -> Tensor:
    """How far the best class that is not among `ids` is above the least of these, (...); min. 0."""
    least = probabilities.gather(-1, ids).amin(-1)
    omitted = probabilities.scatter(-1, ids, 0.0).amax(-1)
    return (omitted - least).clamp(min=0.0)


def require_agreement(report: CheckReport, store: LabelStore, *, same_decoder: bool = True) -> None:
    """Refuse labels that are not the teacher's.

    Args:
        report: on spot checks of this store.
        store: says with which precision it was made.
        same_decoder: whether images are decoded as they were then; if not, only the most probable
            classes must agree.

    Raises:
        StoreMismatch: too many differ, or by too much.
    """
    if isinstance(report, EmbeddingComparison):
        _require_same_directions(report, store, same_decoder)
        return
    tolerance = _TOLERANCE[_precision(store)]
    close = max(report.labels.mean_kl, report.omitted_lead) <= tolerance or not same_decoder
    if report.labels.top1_agreement < _MIN_AGREEMENT or not close:
        raise StoreMismatch(
            f"{store.path} does not hold this teacher's labels of these crops ({report}; at "
            f"least {_MIN_AGREEMENT:.0%} agreement, and at most {tolerance:g} of mean KL and of "
            "lead are expected); do not train from it, label again into a new folder"
        )


def _precision(store: LabelStore) -> str | None:
    """With which precision its labels can be expected to be found again.

    Who made imported ones may have decoded and resized otherwise (Pillow's bicubic gives a KL of
    1e-5, torch's in floats one of 4e-4), or computed in half precision; no file says so.
    """
    is_imported = store.config.get("origin") == "imported"
    return "bf16" if is_imported else store.provenance.autocast


def _require_same_directions(
    report: EmbeddingComparison, store: LabelStore, same_decoder: bool
) -> None:
    least = (
        _LEAST_COSINE[store.provenance.autocast] if same_decoder else _LEAST_COSINE_OF_OTHER_PIXELS
    )
    if not report.mean_cosine >= least:  # a NaN is refused, too
        raise StoreMismatch(
            f"{store.path} does not hold this teacher's embeddings of these crops ({report}; a "
            f"mean cosine of at least {least:g} is expected); do not train from it, label again "
            "into a new folder"
        )


def load_teachers_of(
    store: LabelStore,
    configs: Sequence[TeacherConfig | TeacherModule],
    device: str | None = None,
) -> TeacherEnsemble:
    """The teachers of a configuration, or of modules, if they are those that labeled a store.

    Raises:
        StoreMismatch: they are others; names the fields.
        ConfigError: a teacher cannot be loaded.
    """
    members: list[Teacher] = []
    names = store.class_names or None  # features have none
    for config in configs:
        members += load_teachers([config], image_classes=names).teachers
    then = [_outputs_of(teacher) for teacher in store.config.get("teachers", [])]
    now = [_outputs_of(member.identity()) for member in members]
    if store.config.get("origin") == "imported":
        now = [_stated(*pair) for pair in zip(then, now, strict=False)] + now[len(then) :]
    changes = list(differences(then, now, "teachers"))
    if changes:
        raise StoreMismatch(f"{store.path} was labeled by another teacher: {'; '.join(changes)}")
    ensemble = TeacherEnsemble(members, names).to(resolve_device(device))
    recorded = recorded_in(store)
    return ensemble.standardized(recorded) if recorded else ensemble


def _outputs_of(identity: Any) -> Any:
    """What the outputs of a teacher by itself depend on.

    The words for a license may change in a library; standardizations are taken from the store.
    """
    if not isinstance(identity, dict):
        return identity
    return {name: value for name, value in identity.items() if name not in _NO_OUTPUTS}


def _stated(then: Any, now: Any) -> Any:
    """Of a teacher, what its importer stated of it: the labels themselves say no more."""
    if not isinstance(then, dict) or not isinstance(now, dict):
        return now
    if then.get("name") == "unknown":
        return then
    return {name: value for name, value in now.items() if name in then}


def describe_decoder_change(store: LabelStore) -> str:
    """How the image decoder of now differs from the one of labeling; "" if it does not.

    Another version is no error: its pixels are nearly the same, and spot checks measure how nearly.
    """
    return "; ".join(differences(store.provenance.decoder, DECODER, "decoder"))
