"""What is known of teachers and stores that were compared: rows, their order, and JSON."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from fkd.analysis.label_statistics import LabelStatistics
from fkd.labels.comparison import LabelComparison

SortKey = Literal[
    "given", "entropy", "confidence", "crop_accuracy", "image_accuracy", "calibration", "ms", "macs"
]


@dataclass(frozen=True)
class Cost:
    """What a teacher takes for a crop.

    Attributes:
        milliseconds: measured: median over forward passes of batch_size crops, over their number.
        macs: multiply-accumulate operations of convolutions, matrix products and attention.
        num_parameters: of the network.
        input_size: side of a crop, pixels.
    """

    milliseconds: float
    macs: int
    num_parameters: int
    input_size: int


@dataclass(frozen=True)
class TeacherRow:
    """One teacher or store.

    Attributes:
        name: as the user gave it.
        kind: "model" or "store".
        source: what it is: the name of the network; of a store, its codec and teachers.
        labels: of its crops.
        image_accuracy: on the centers of whole images, in [0, 1]; None of stores, and without
            true classes.
        cost: None of stores.
        bytes_per_crop: of a store, all its files over all its crops.
        same_crops: whether its crops are those of the others.
    """

    name: str
    kind: Literal["model", "store"]
    source: str
    labels: LabelStatistics
    image_accuracy: float | None = None
    cost: Cost | None = None
    bytes_per_crop: float | None = None
    same_crops: bool = True


@dataclass(frozen=True)
class TeachersReport:
    """Teachers and stores on the same crops.

    Attributes:
        rows: in the order of the settings, models first.
        agreement: each row's labels as reference (row) against those of each (column); None where
            the crops are not the same.
        num_images: of the sample.
        num_crops: of each image.
        class_names: that labels are compared over.
        device: where models were run.
        remarks: what the user may want to know, a sentence each.
    """

    rows: list[TeacherRow]
    agreement: list[list[LabelComparison | None]]
    num_images: int
    num_crops: int
    class_names: list[str]
    device: str
    remarks: list[str]

    def sorted(self, key: SortKey) -> "TeachersReport":
        """The same with rows and columns by rising numbers; accuracies fall. Unknown ones last."""
        order = sorted(range(len(self.rows)), key=lambda i: _sort_value(self.rows[i], key))
        rows = [self.rows[i] for i in order]
        agreement = [[self.agreement[i][j] for j in order] for i in order]
        return replace(self, rows=rows, agreement=agreement)


def report_numbers(report: TeachersReport) -> dict[str, Any]:
    """A report in JSON's types; matrices have a row for each reference."""

    def matrix(name: str) -> list[list[float | None]]:
        return [
            [None if each is None else getattr(each, name) for each in row]
            for row in report.agreement
        ]

    return {
        "num_images": report.num_images,
        "crops_per_image": report.num_crops,
        "num_classes": len(report.class_names),
        "device": report.device,
        "remarks": report.remarks,
        "rows": [asdict(row) for row in report.rows],
        "top1_agreement": matrix("top1_agreement"),
        "mean_kl": matrix("mean_kl"),
    }


def _sort_value(row: TeacherRow, key: SortKey) -> float:
    labels, cost = row.labels, row.cost
    values: dict[str, float | None] = {
        "given": 0.0,
        "entropy": labels.entropy,
        "confidence": labels.confidence,
        "crop_accuracy": None if labels.accuracy is None else -labels.accuracy,
        "image_accuracy": None if row.image_accuracy is None else -row.image_accuracy,
        "calibration": labels.calibration_error,
        "ms": None if cost is None else cost.milliseconds,
        "macs": None if cost is None else float(cost.macs),
    }
    value = values[key]
    return float("inf") if value is None else value
