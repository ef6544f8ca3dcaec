"""Losses between a student's embeddings and a teacher's, which are no class scores.

    dims     cross-entropy between softmaxes over the dimensions of both, each over a temperature
    cosine   1 - cosine of both
    bank     cross-entropy between softmaxes of the cosines with a bank of teacher embeddings

and, without a teacher, between crops of one image (InfoNCE): `contrastive_loss`.

`dims` reads each dimension as a class: student and teacher must agree on what a dimension means.
`bank` asks for the same neighbors instead. It needs no queue, since the bank is rows of the store.

Source: `dims` is S2-BNN's guided distribution calibration (Shen et al., CVPR 2021), which FKD-SSL
takes over with stored embeddings (FKD, Sec. 3.4); `bank` follows SEED (Fang et al., ICLR 2021);
`contrastive_loss` is MoCo's (He et al., CVPR 2020).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fkd.errors import ConfigError


def dims_loss(student: Tensor, teacher: Tensor, temperature: float = 0.2) -> Tensor:
    """- sum_k softmax(t / tau)_k log softmax(s / tau)_k of each crop in nats, (B,).

    Args:
        student: s, (B, D); unit vectors in S2-BNN.
        teacher: t, (B, D), likewise.
        temperature: tau, of both sides; there is no factor tau^2.

    Raises:
        ConfigError: the two differ in shape.
    """
    _require_alike(student, teacher)
    target = torch.softmax(teacher.float() / temperature, dim=1)
    return -(target * torch.log_softmax(student.float() / temperature, dim=1)).sum(1)


def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine of each pair of rows, in [0, 2], (B,).

    Raises:
        ConfigError: the two differ in shape.
    """
    _require_alike(student, teacher)
    return 1.0 - F.cosine_similarity(student.float(), teacher.float(), dim=1)


def bank_loss(
    student: Tensor,
    teacher: Tensor,
    bank: Tensor,
    student_temperature: float = 0.2,
    teacher_temperature: float = 0.07,
) -> Tensor:
    """Cross-entropy between similarities to a bank, teacher's as the target, in nats, (B,).

    Args:
        student: (B, D).
        teacher: (B, D) of the same crops.
        bank: (N, D), embeddings of the teacher.
        student_temperature: of the student's cosines.
        teacher_temperature: of the teacher's; sharper.

    Raises:
        ConfigError: the three differ in width.
    """
    _require_alike(student, teacher)
    if bank.shape[1] != student.shape[1]:
        raise ConfigError(f"the bank has {bank.shape[1]} columns, embeddings {student.shape[1]}")
    entries = F.normalize(bank.float(), dim=1).T
    similar = F.normalize(student.float(), dim=1) @ entries / student_temperature
    target = torch.softmax(F.normalize(teacher.float(), dim=1) @ entries / teacher_temperature, 1)
    return -(target * torch.log_softmax(similar, dim=1)).sum(1)


def _require_alike(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ConfigError(
            f"the student's embeddings have the shape {tuple(student.shape)}, the teacher's "
            f"{tuple(teacher.shape)}; give the student a head of {teacher.shape[-1]} outputs"
        )


def contrastive_loss(
    queries: Tensor, keys: Tensor, queue: Tensor, temperature: float = 0.2
) -> Tensor:
    """- log of the share of e^(q k / tau) among itself and all e^(q k' / tau), in nats, (B,).

    Args:
        queries: q, unit vectors (B, D) of the student.
        keys: k, those of other crops of the same images, (B, D).
        queue: all k', (N, D), keys of other images.
        temperature: tau.
    """
    positive = (queries * keys).sum(1, keepdim=True)
    logits = torch.cat([positive, queries @ queue.T], dim=1).float() / temperature
    return -torch.log_softmax(logits, dim=1)[:, 0]
