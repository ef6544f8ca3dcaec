"""Fast knowledge distillation: crops and soft labels both come from the label store.

Source: FKD (Shen and Xing, ECCV 2022), Sec. 3.3 and Fig. 5 (right).
"""

from typing import ClassVar

from fkd.methods.method import OF_EQUATION_1, OF_STORED_LABELS, CropSourceKind, PairedMethod


class FKD(PairedMethod):
    """Replay the teacher's crops against the labels it gave them."""

    summary: ClassVar[str] = "crops and soft labels from a label store, without a teacher"
    crop_source: ClassVar[CropSourceKind] = "stored"
    uses: ClassVar[frozenset[str]] = OF_EQUATION_1 | OF_STORED_LABELS
