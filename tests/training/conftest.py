"""What tests of whole runs share."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fkd.data.sources import ImagesConfig
from fkd.engine.logging import read_metrics
from fkd.training.config import StudentConfig, TrainConfig

TIMES = ("seconds", "crops_per_second")


@pytest.fixture
def plain_run(tmp_path, image_folder) -> TrainConfig:
    """4 steps of a tiny student without a store, a checkpoint after each."""
    return TrainConfig(
        out=str(tmp_path / "run"),
        images=ImagesConfig(root=str(image_folder)),
        student=StudentConfig(name="test_vit", input_size=32),
        method="vanilla",
        epochs=2,
        batch_size=8,
        num_workers=0,
        log_every=1,
        checkpoint_seconds=0,
        device="cpu",
    )


def outcome(config: TrainConfig) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """Metrics without times, and weights."""
    lines = read_metrics(Path(config.out) / "metrics.jsonl")
    kept = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
    return kept, load_file(Path(config.out) / "model.safetensors")


@pytest.fixture(scope="session")
def require_same_outcome():
    """Asserts that two runs ended in the same metrics and the same bits."""

    def require(config: TrainConfig, reference: TrainConfig) -> None:
        (lines, weights), (expected_lines, expected) = outcome(config), outcome(reference)
        assert lines == expected_lines
        assert all(torch.equal(value, expected[name]) for name, value in weights.items())

    return require
