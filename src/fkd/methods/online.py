"""Asking a teacher while the student learns."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fkd.methods.method import MethodInputs
from fkd.models.teacher import Answer, TeacherEnsemble

# Crops that a CPU passes through a teacher at a time, so that its layers stay in the cache. Crops a
# second, EfficientNet-Lite0 on 2 cores, in chunks of 4, 8, 16, 32 and 256 (the whole batch): 141,
# 148, 160, 160, 43 with freed memory kept (fkd.cli.process), 134, 111, 114, 90, 35 without.
_CHUNK = 16


class OnlineTeacher:
    """A teacher that looks at the crops of a batch.

    Every network gets the same boxes and flips, cut at its own size from the decoded image; or all
    look at the very tensor of the student.

    Attributes:
        formats: how crops must be cut for student and teacher, the student's first.

    Args:
        inputs: name the student's format and the teacher.
        shares_view: show the teacher the student's tensor.
    """

    def __init__(self, inputs: MethodInputs, *, shares_view: bool = False) -> None:
        assert inputs.teacher is not None
        self._teacher: TeacherEnsemble = inputs.teacher
        student, views = inputs.student, self._teacher.views
        wanted = list(views)
        if shares_view:
            wanted = [student] * len(views)
        self.formats = tuple(dict.fromkeys([student, *wanted]))
        self._places = [self.formats.index(view) for view in wanted]

    @torch.no_grad()
    def answer(self, crops: Sequence[Tensor], temperature: float = 1.0) -> Answer:
        """What the teacher says now about the crops of a batch, one tensor per format."""
        seen = [crops[place] for place in self._places]
        size = _CHUNK if seen[0].device.type == "cpu" else len(seen[0])
        chunks = zip(*(torch.split(views, size) for views in seen), strict=True)
        answers = [self._teacher.answer(chunk, temperature=temperature) for chunk in chunks]
        return Answer(*map(torch.cat, zip(*answers, strict=True)))
