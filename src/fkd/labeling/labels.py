"""The teacher's labels of a batch of crops, checked and compressed, and shards made of batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from fkd.crops.records import CropRecords
from fkd.errors import TeacherError
from fkd.labeling.pipeline import ImageRow, TeacherInput
from fkd.labels.codec_names import PerTeacher
from fkd.labels.encoded import Encoded
from fkd.labels.quantization import LARGEST_VALUE
from fkd.labels.sampled import encode_labels
from fkd.labels.sigmoid_codecs import is_multi_label
from fkd.models.dense import DenseTeacher
from fkd.models.ensemble import TeacherEnsemble
from fkd.models.numerics import Autocast
from fkd.models.single_teacher import Activation, NotFinite
from fkd.store import LABELED, UNREADABLE, ImageFacts, LabeledCrops
from fkd.store.config import StoreConfig
from fkd.store.geometry import grid_boxes

_ABOVE_ONE = 1e-5  # a softmax in float32 may exceed 1 by rounding


@dataclass(frozen=True)
class LabeledBatch:
    """The compressed labels of one batch of crops.

    Attributes:
        shard: the shard it belongs to.
        starting: rows of the images that begin with this batch, unreadable ones included.
        num_crops: n, crops without padding; of label maps, images.
        label: of each crop, (n, ...); of label maps, of each cell, (n * cells, ...).
    """

    shard: int
    starting: list[ImageRow]
    num_crops: int
    label: Encoded


@dataclass(frozen=True)
class TeacherLabeler:
    """Labels batches of crops; safe to call from many threads.

    Attributes:
        config: of the store: its codec, how values are stored, and the numerics.
        teachers: the models, on their device.
        maps: labels every cell of a whole image instead, for label maps.
    """

    config: StoreConfig
    teachers: TeacherEnsemble
    maps: DenseTeacher | None

    @property
    def autocast(self) -> Autocast | None:
        """Reduced precision of the forward pass, if any."""
        return cast(Autocast | None, self.config.provenance.autocast)

    @property
    def labels_per_crop(self) -> int:
        """One, or the cells of a map."""
        return 1 if self.maps is None else self.config.num_crops

    def __call__(self, batch: TeacherInput) -> LabeledBatch:
        """The labels of a batch.

        Raises:
            TeacherError: an output is not finite, no probability, or too large to be stored; names
                an image and a crop.
        """
        num_crops = len(batch.crops)
        if num_crops == 0:  # unreadable images only
            return LabeledBatch(batch.shard, batch.starting, 0, Encoded(None, None))
        try:
            outputs = self.outputs(batch.views)[: num_crops * self.labels_per_crop]
        except NotFinite as error:
            place = self._name(batch, min(error.crop, num_crops - 1))
            raise TeacherError(f"{error}; it is {place}") from error
        self._check(outputs, batch)
        label = encode_labels(self.config.codec, outputs, batch.draws)
        return LabeledBatch(batch.shard, batch.starting, num_crops, label)

    def outputs(self, views: Sequence[Tensor]) -> Tensor:
        """Probabilities (of a softmax, or of sigmoids), or logits if the codec wants them, float32
        (n, C), of uint8 crops; those of every teacher (n, T, C) if it keeps them apart; features as
        the store projects them; for label maps the logits of the cells of one image after the
        other."""
        if self.maps is not None:
            return self.maps.logit_maps(views[0], autocast=self.autocast).flatten(0, 1)
        activation: Activation = "sigmoid" if is_multi_label(self.config.codec) else "softmax"
        if isinstance(self.config.codec, PerTeacher):
            return self.teachers.each(list(views), autocast=self.autocast, activation=activation)
        if self.config.codec.encodes == "logits":
            logits = self.teachers.logits(list(views), autocast=self.autocast)
            projection = self.config.provenance.projection
            return logits if projection is None else projection(logits)
        return self.teachers.probabilities(
            list(views), autocast=self.autocast, activation=activation
        )

    def _check(self, outputs: Tensor, batch: TeacherInput) -> None:
        low, high = (0.0, 1.0 + _ABOVE_ONE)
        if self.config.codec.encodes == "logits":
            high = LARGEST_VALUE[self.config.value_dtype or "f32"]
            low = -high
        # Written so that a NaN fails too.
        sound = ((outputs >= low) & (outputs <= high)).flatten(1).all(dim=1)
        if bool(sound.all()):
            return
        first = int(torch.nonzero(~sound)[0])
        row = outputs[first].flatten()
        if bool(torch.isfinite(row).all()):
            reason = (
                f"gives the value {float(row[row.abs().argmax()]):g}, outside [{low:g}, {high:g}],"
            )
            remedy = "store values as f32 (--value_dtype f32)"
        else:
            reason, remedy = "gives NaN or infinity", self._remedy()
        raise TeacherError(
            f"the teacher {reason} for {self._name(batch, first // self.labels_per_crop)}; "
            f"{remedy}. Nothing of this shard is stored"
        )

    def _name(self, batch: TeacherInput, place: int) -> str:
        """What messages call a crop of a batch."""
        name, crop = batch.crops[place]
        return f"crop {crop} of {name}" if self.maps is None else name

    def _remedy(self) -> str:
        if self.autocast == "fp16":
            return "fp16 overflows with this model, use --autocast bf16 or exact numerics"
        return "check its weights (--teacher.checkpoint)"


def assemble_shard(
    batches: Sequence[LabeledBatch], config: StoreConfig
) -> tuple[list[bytes], LabeledCrops]:
    """The keys and the content of a shard from all its batches, in order."""
    rows = [row for batch in batches for row in batch.starting]
    readable = np.array([row.records is not None for row in rows])
    label = Encoded.concatenate([batch.label for batch in batches])
    return [row.key for row in rows], LabeledCrops(
        images=facts_of(rows),
        records=_records(rows, config),
        label=Encoded(
            _per_image(label.ids, readable, config.num_crops, config.num_ids, np.int64),
            _per_image(label.values, readable, config.num_crops, config.num_values, np.float32),
        ),
    )


def facts_of(rows: Sequence[ImageRow]) -> ImageFacts:
    """What is stored of image files; status says which could not be read."""
    return ImageFacts(
        crc32=np.array([row.crc32 for row in rows], np.uint32),
        num_bytes=np.array([row.num_bytes for row in rows], np.uint64),
        size=np.array([row.size for row in rows], np.uint32),
        status=np.array([UNREADABLE if row.reason else LABELED for row in rows], np.uint8),
    )


def _records(rows: Sequence[ImageRow], config: StoreConfig) -> CropRecords:
    """Where the crops lie (n, M): what the teacher saw, or the cells of what it saw."""
    m = config.num_crops
    if config.grid is not None:
        sizes = np.array([row.size for row in rows], np.int64)
        return CropRecords(grid_boxes(config.grid, sizes), np.zeros((len(rows), m), bool))
    extra = {e.name: np.zeros((m, *e.shape), e.dtype) for e in config.extras}
    of_unreadable = CropRecords(np.zeros((m, 4), np.int64), np.zeros(m, bool), extra)
    return CropRecords.stack([row.records or of_unreadable for row in rows])


def _per_image(
    array: np.ndarray | None, readable: np.ndarray, num_crops: int, width: int, dtype: type
) -> np.ndarray | None:
    """The array (., K) of the crops of readable images as (n, M, K); zeros for the others."""
    if width == 0:
        return None
    whole: np.ndarray = np.zeros((len(readable), num_crops, width), dtype)
    if array is not None:
        whole[readable] = array.reshape(-1, num_crops, width)
    return whole
