"""Which images are in which step, on which process: a pure function of (seed, epoch, step).

One *global batch* per optimizer step holds ceil(batch_size / m) images, whatever the number of
processes. It is cut into `world_size * accumulate_steps` chunks, which processes take in turn:

    global batch  | image 0 1 2 | 3 4 5 | 6 7 | 8 9 |     world_size 2, accumulate_steps 2
    process       |      0      |   1   |  0  |  1  |
    part          |      0      |   0   |  1  |  1  |

Nothing here is state: a run that resumes at step t, also with other processes, asks for the same
batches as one that was never stopped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from fkd.data.crop_sources import CropRequest
from fkd.engine.schedule import Pass
from fkd.randomness import Purpose, permutations, stream_key, uniforms


@dataclass(frozen=True)
class StepInfo:
    """Which pass a step belongs to.

    Attributes:
        pass_number: number of the pass, from 0.
        of_pass: the pass.
        step: steps of this pass before this one.
        num_steps: steps of this pass.
    """

    pass_number: int
    of_pass: Pass
    step: int
    num_steps: int

    @property
    def ends_pass(self) -> bool:
        """Whether this is the last step of its pass."""
        return self.step == self.num_steps - 1

    @property
    def epoch(self) -> float:
        """Epochs done before this step."""
        return self.of_pass.epoch + self.of_pass.crops_per_image * self.step / self.num_steps

    @property
    def epoch_after(self) -> float:
        """Epochs done after this step."""
        return self.of_pass.epoch + self.of_pass.crops_per_image * (self.step + 1) / self.num_steps


@dataclass(frozen=True)
class Chunk:
    """What one process computes in one forward pass.

    Attributes:
        requests: the crops to load.
        weight: factor of the chunk's mean loss, so that the gradients, averaged over processes and
            summed over parts, are those of the mean over the global batch; 0 for a filler, which a
            process computes where there are fewer images than chunks.
        number: which chunk of the global batch.
        last: whether it is the process's last chunk of the step.
    """

    requests: list[CropRequest]
    weight: float
    number: int
    last: bool


@dataclass(frozen=True, kw_only=True)
class Order:
    """The order of a whole run.

    Attributes:
        images: positions of the images to train on, int64.
        passes: from `plan_passes`.
        batch_size: crops per optimizer step, over all processes.
        seed: picks the order.
        world_size: processes.
        rank: this process.
        accumulate_steps: forward passes of a process per optimizer step.
    """

    images: np.ndarray
    passes: Sequence[Pass]
    batch_size: int
    seed: int
    world_size: int = 1
    rank: int = 0
    accumulate_steps: int = 1

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the run."""
        return int(self._ends[-1])

    @property
    def fewest_crops(self) -> int:
        """Crops of the smallest forward pass of any process."""
        parts = self.world_size * self.accumulate_steps
        fewest = []
        for of_pass in set(self.passes):
            full, rest = divmod(len(self.images), self._images_per_batch(of_pass))
            counts = [self._images_per_batch(of_pass)] if full else []
            if self._steps_of(of_pass) > full or not full:
                counts.append(rest)
            fewest += [max(1, count // parts) * of_pass.crops_per_image for count in counts]
        return min(fewest)

    def step_info(self, step: int) -> StepInfo:
        """Which pass step `step` belongs to."""
        ends = self._ends
        number = int(np.searchsorted(ends, step, side="right"))
        first = int(ends[number - 1]) if number else 0
        return StepInfo(number, self.passes[number], step - first, int(ends[number]) - first)

    def global_batch(self, step: int) -> np.ndarray:
        """Positions of the images of a step, int64, the same for each process."""
        info = self.step_info(step)
        size = self._images_per_batch(info.of_pass)
        stop = (info.step + 1) * size if not info.ends_pass else len(self.images)
        order = _image_order(self.seed, info.of_pass.epoch, len(self.images))
        batch: np.ndarray = self.images[order[info.step * size : stop]]
        return batch

    def chunk(self, step: int, part: int) -> Chunk:
        """What this process does in the `part`-th forward pass of a step."""
        images, of_pass = self.global_batch(step), self.step_info(step).of_pass
        number = part * self.world_size + self.rank
        chunk = np.array_split(images, self.world_size * self.accumulate_steps)[number]
        weight = self.world_size * len(chunk) / len(images)
        if len(chunk) == 0:
            chunk = images[:1]  # a filler
        requests = [
            CropRequest(image, of_pass.epoch, of_pass.crops_per_image) for image in chunk.tolist()
        ]
        return Chunk(requests, weight, number, last=part == self.accumulate_steps - 1)

    def chunks(self, first_step: int) -> Iterator[Chunk]:
        """All chunks of this process from a step to the end of the run."""
        for step in range(first_step, self.num_steps):
            for part in range(self.accumulate_steps):
                yield self.chunk(step, part)

    def _images_per_batch(self, of_pass: Pass) -> int:
        return -(-self.batch_size // of_pass.crops_per_image)

    @cached_property
    def _ends(self) -> np.ndarray:
        """Steps of the run up to the end of each pass."""
        return np.cumsum([self._steps_of(of_pass) for of_pass in self.passes])

    def _steps_of(self, of_pass: Pass) -> int:
        """Steps of one pass; the last, partial batch is kept.

        A last batch of one single crop joins the one before: batch norm cannot train on it.
        """
        full, rest = divmod(len(self.images), self._images_per_batch(of_pass))
        return max(1, full + (rest * of_pass.crops_per_image > 1))


@lru_cache(maxsize=2)  # an order of ImageNet takes 10 MB; the loader is at most one pass ahead
def _image_order(seed: int, epoch: int, num_images: int) -> np.ndarray:
    """The order of the images in the pass that starts at `epoch`, int64 (num_images,)."""
    return permutations(stream_key(seed), Purpose.IMAGE_ORDER, epoch, num_images)


def step_seed(seed: int, step: int, chunk: int) -> int:
    """The seed of torch's generators for one forward pass (dropout, drop path)."""
    draws = uniforms(stream_key(seed, b"chunk %d" % chunk), Purpose.STEP, step, 2)
    return int(draws[0] * 2**31) << 32 | int(draws[1] * 2**32)
