"""A teacher that labels crops while the student is trained."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fkd.methods.method import MethodInputs
from fkd.models.ensemble import Answer, TeacherEnsemble

# Crops that a CPU passes through a teacher at a time, so that its layers stay in the cache. Crops a
# second, EfficientNet-Lite0 on 2 cores, in chunks of 4, 8, 16, 32 and 256 (the whole batch): 141,
# 148, 160, 160, 43 with freed memory kept (fkd.cli.process), 134, 111, 114, 90, 35 without.
_CHUNK = 16


class OnlineTeacher:
    """The teacher of a run, and the crops it needs.

    Every network gets the same boxes and flips, cut at its own size from the decoded image, or the
    student's tensor itself.

    Attributes:
        formats: how crops must be cut for student and teacher, the student's first.

    Args:
        inputs: of the method.
        shares_crops: give the teacher the student's tensor.
    """

    def __init__(self, inputs: MethodInputs, *, shares_crops: bool = False) -> None:
        assert inputs.teacher is not None
        self._teacher: TeacherEnsemble = inputs.teacher
        self._activation = inputs.activation
        student, wanted = inputs.student, list(self._teacher.views)
        if shares_crops:
            wanted = [student] * len(wanted)
        self.formats = tuple(dict.fromkeys([student, *wanted]))
        self._format_indices = [self.formats.index(fmt) for fmt in wanted]

    @torch.no_grad()
    def answer(self, crops: Sequence[Tensor], temperature: float = 1.0) -> Answer:
        """The teacher's answer for the crops of a batch, one uint8 tensor per format."""
        inputs = [crops[i] for i in self._format_indices]
        size = _CHUNK if inputs[0].device.type == "cpu" else len(inputs[0])
        chunks = zip(*(torch.split(tensor, size) for tensor in inputs), strict=True)
        answers = [
            self._teacher.answer(chunk, temperature=temperature, activation=self._activation)
            for chunk in chunks
        ]
        return Answer(*map(torch.cat, zip(*answers, strict=True)))
