"""What changes while a student learns: its weights, the optimizer, the step; what checkpoints hold.

A method may train a network of its own beside the student (MEAL V2's discriminator). Both are parts
of one module, so that one DistributedDataParallel averages the gradients of both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from fkd.data.batches import Batch
from fkd.engine.checkpoint import State
from fkd.engine.optim import OptimizerConfig, build_optimizer


class TrainableMethod(Protocol):
    """What training needs of a method; see `fkd.methods.method.Method`."""

    auxiliary_model: nn.Module | None

    def targets(self, batch: Batch) -> Any:
        """What the student is trained against."""

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The mean loss of the crops."""

    def auxiliary_loss(self, outputs: Any, targets: Any) -> Tensor | None:
        """The loss that passes through `auxiliary_model`; None without one."""

    def after_step(self, counted: Sequence[bool]) -> None:
        """Called after every optimizer step."""


class TrainableModule(nn.Module):
    """A student and the auxiliary network of its method, if it has one.

    The auxiliary network is called inside `forward`: DistributedDataParallel only averages
    gradients of what is computed there.

    Attributes:
        student: maps images to outputs.
        auxiliary_model: the method's.
    """

    def __init__(self, student: nn.Module, method: TrainableMethod) -> None:
        super().__init__()
        self.student = student
        self.auxiliary_model = method.auxiliary_model
        self._method = method

    def forward(self, images: Tensor, targets: Any) -> tuple[Any, Tensor | None]:
        """The student's outputs for normalized images (B, 3, S, S), and the auxiliary loss."""
        outputs = self.student(images)
        return outputs, self._method.auxiliary_loss(outputs, targets)


@dataclass(kw_only=True)
class TrainState:
    """A student in training.

    Attributes:
        accelerator: device, precision and processes.
        module: the student and the auxiliary network of its method.
        prepared: `module` as accelerate prepared it (distributed, autocast); called in training.
        optimizer: of all their parameters; prepared likewise.
        ema: moving average of the student's weights and buffers, if wanted.
        step: optimizer steps done.
    """

    accelerator: Accelerator
    module: TrainableModule
    prepared: nn.Module
    optimizer: Any
    ema: ModelEmaV3 | None
    step: int = 0

    @staticmethod
    def build(
        student: nn.Module,
        method: TrainableMethod,
        accelerator: Accelerator,
        optimizer: OptimizerConfig,
        ema_decay: float | None,
    ) -> "TrainState":
        """The state before the first step, on the accelerator's device.

        Convolutions are fastest in channels-last memory (1.5 times on a CPU). The parameters of the
        auxiliary network are the optimizer's last group.
        """
        student = student.to(accelerator.device).to(memory_format=torch.channels_last)
        ema = None if ema_decay is None else ModelEmaV3(student, decay=ema_decay)
        built = build_optimizer(optimizer, student)
        module = TrainableModule(student, method).to(accelerator.device)
        if module.auxiliary_model is not None:
            trained = [p for p in module.auxiliary_model.parameters() if p.requires_grad]
            if trained:
                built.add_param_group({"params": trained})
        prepared, prepared_optimizer = accelerator.prepare(module, built)
        return TrainState(
            accelerator=accelerator,
            module=module,
            prepared=prepared,
            optimizer=prepared_optimizer,
            ema=ema,
        )

    @property
    def result(self) -> nn.Module:
        """The model that is evaluated and saved: the moving average where there is one."""
        return self.module.student if self.ema is None else self.ema.module

    def state(self) -> State:
        """Everything that a continued run needs, whatever its number of processes."""
        auxiliary, scaler = self.module.auxiliary_model, self.accelerator.scaler
        return {
            "step": self.step,
            "student": self.module.student.state_dict(),
            "auxiliary_model": None if auxiliary is None else auxiliary.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def load_state(self, state: State) -> None:
        """Go on from a state of the same settings."""
        self.step = state["step"]
        self.module.student.load_state_dict(state["student"])
        if self.module.auxiliary_model is not None:
            self.module.auxiliary_model.load_state_dict(state["auxiliary_model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def share_buffers(self) -> None:
        """Give every process the buffers (batch norm statistics) of the main one.

        They differ after a step, because each process saw its own crops; before an evaluation that
        all processes share, they must not.
        """
        if self.accelerator.num_processes > 1:
            for buffer in self.result.buffers():
                buffer.copy_(broadcast(buffer.clone()))
