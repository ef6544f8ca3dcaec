"""The student and everything about it that changes while it learns; the content of a checkpoint."""

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from fkd.engine.checkpoint import State
from fkd.engine.optim import OptimizerConfig, build_optimizer


@dataclass(kw_only=True)
class TrainState:
    """A student in training.

    Attributes:
        accelerator: device, precision and processes.
        module: the student itself.
        student: the student as accelerate prepared it (distributed, autocast).
        optimizer: prepared likewise.
        ema: moving average of the student's weights and buffers, if wanted.
        auxiliary_model: a network of the method that learns with the same optimizer, if it has one.
        step: optimizer steps done.
    """

    accelerator: Accelerator
    module: nn.Module
    student: nn.Module
    optimizer: Any
    ema: ModelEmaV3 | None
    auxiliary_model: nn.Module | None = None
    step: int = 0

    @staticmethod
    def build(
        module: nn.Module,
        accelerator: Accelerator,
        optimizer: OptimizerConfig,
        ema_decay: float | None,
        auxiliary_model: nn.Module | None = None,
    ) -> "TrainState":
        """A student at the beginning of its training, on the accelerator's device.

        Convolutions are fastest in channels-last memory (1.5 times on a CPU).
        """
        module = module.to(accelerator.device).to(memory_format=torch.channels_last)
        ema = None if ema_decay is None else ModelEmaV3(module, decay=ema_decay)
        built = build_optimizer(optimizer, module)
        if auxiliary_model is not None:
            auxiliary_model.to(accelerator.device)
            built.add_param_group({"params": list(auxiliary_model.parameters())})
            auxiliary_model = accelerator.prepare(auxiliary_model)
        student, prepared = accelerator.prepare(module, built)
        return TrainState(
            accelerator=accelerator,
            module=module,
            student=student,
            optimizer=prepared,
            ema=ema,
            auxiliary_model=auxiliary_model,
        )

    @property
    def result(self) -> nn.Module:
        """The model that is evaluated and saved: the moving average where there is one."""
        return self.module if self.ema is None else self.ema.module

    def state(self) -> State:
        """Everything that a continued run needs; tensors and plain values only."""
        scaler = self.accelerator.scaler
        return {
            "step": self.step,
            "student": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "auxiliary_model": None
            if self.auxiliary_model is None
            else self.auxiliary_model.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def load_state(self, state: State) -> None:
        """Go on from a state of the same settings."""
        self.step = state["step"]
        self.module.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        if self.auxiliary_model is not None:
            self.auxiliary_model.load_state_dict(state["auxiliary_model"])
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
