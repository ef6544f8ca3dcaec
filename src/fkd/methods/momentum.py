"""What contrastive learning compares a student with: a slowly moving copy of it, and a queue.

The copy gives the *key* of a crop; the queue holds the newest keys of earlier steps, the negatives.

    weights of the copy  <-  m copy + (1 - m) student        after every step
    queue                <-  the keys of the step in the place of the oldest

Both are parameters without a gradient: checkpoints have them, and DistributedDataParallel makes
them equal in all processes once, not at every step. Every process has the same queue: the keys of
all, in the order of the global batch, so that their number changes nothing.

Source: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020.
Differs: batch norms of the copy see the crops of a batch in two random halves; the authors shuffle
crops between GPUs, for the same reason: statistics must not tell which crops belong together.
"""

import copy
from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

_FIRST_QUEUE = 0  # seed of the random vectors that the queue begins with


class MomentumQueue(nn.Module):
    """The slowly moving copy of a student, and the newest keys that it gave.

    Args:
        student: network of images (B, 3, S, S) to embeddings (B, dim).
        dim: of the embeddings.
        length: keys in the queue.
        momentum: m, the copy's share of itself.

    Attributes:
        encoder: the copy.
        queue: unit vectors (length, dim).
        oldest: row of the queue that is replaced next.
    """

    oldest: Tensor

    def __init__(self, student: nn.Module, dim: int, length: int, momentum: float) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(student).requires_grad_(False)
        self.encoder.to(memory_format=torch.channels_last)  # as the student is trained
        generator = torch.Generator().manual_seed(_FIRST_QUEUE)
        first = F.normalize(torch.randn(length, dim, generator=generator), dim=1)
        self.queue = nn.Parameter(first, requires_grad=False)
        self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))
        self._momentum = momentum
        self._pending: list[Tensor] = []

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Keys: unit vectors (B, dim) of images (B, 3, S, S); kept for the next `step`."""
        order = torch.randperm(len(images), device=images.device)
        halves = torch.chunk(order, 2) if len(images) >= 4 else (order,)
        keys = torch.cat([self.encoder(images[half]) for half in halves])
        keys = F.normalize(keys.float(), dim=1)[torch.argsort(order)]
        self._pending.append(keys)
        return keys

    @torch.no_grad()
    def step(self, student: nn.Module, counted: Sequence[bool]) -> None:
        """Follow the student, and put the keys since the last step into the queue.

        Args:
            student: after its own step.
            counted: of each batch since the last step, whether its keys count.
        """
        pairs = zip(self._pending, counted, strict=True)
        parts = [gather_rows(keys if counts else keys[:0]) for keys, counts in pairs]
        self._pending = []
        self._enqueue(torch.cat(parts))
        for mine, its in zip(self.encoder.parameters(), student.parameters(), strict=True):
            mine.lerp_(its, 1.0 - self._momentum)

    def _enqueue(self, keys: Tensor) -> None:
        length = len(self.queue)
        keys = keys[-length:]
        rows = (self.oldest + torch.arange(len(keys), device=keys.device)) % length
        self.queue[rows] = keys
        self.oldest.copy_((self.oldest + len(keys)) % length)


def gather_rows(rows: Tensor) -> Tensor:
    """The rows (n, dim) of all processes, those of the first one first; n may differ."""
    if not (dist.is_available() and dist.is_initialized()):
        return rows
    counts = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=rows.device)
    counts[dist.get_rank()] = len(rows)
    dist.all_reduce(counts)
    sizes = counts.tolist()
    if max(sizes) == 0:
        return rows
    padded = F.pad(rows, (0, 0, 0, max(sizes) - len(rows)))
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded.contiguous())
    return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])
