"""FKD-SSL by itself: its settings, and what a mixed crop is trained against."""

import pytest
import torch

from fkd.data.batches import Batch
from fkd.data.mixing import Mix
from fkd.errors import ConfigError
from fkd.labels.embeddings import Embeddings
from fkd.methods import SslConfig
from fkd.methods.fkd_ssl import FkdSsl
from fkd.training.config import StudentConfig


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SslConfig(loss="mse"), "ssl.loss: 'mse' is none of dims, cosine, bank"),
        (lambda: SslConfig(temperature=0.0), "ssl.temperature must be above 0"),
        (lambda: SslConfig(loss="cosine", temperature=0.1), "loss cosine does not use it"),
        (lambda: SslConfig(teacher_temperature=0.1), "loss dims does not use it"),
        (lambda: SslConfig(bank_size=9), "ssl.bank_size: loss dims does not use it"),
        (lambda: SslConfig(loss="bank", bank_size=1), "ssl.bank_size must be at least 2, got 1"),
        (lambda: StudentConfig(name="x", head="linear"), "student.head: 'linear' is none of none"),
        (lambda: StudentConfig(name="x", head_dim=9), "student.head_dim: head mlp does not use it"),
        (
            lambda: StudentConfig(name="x", head="none", head_hidden=9),
            "student.head_hidden: head none does not use it",
        ),
        (lambda: StudentConfig(name="x", head_hidden=0), "student.head_hidden must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_a_mixed_crop_is_trained_against_both_embeddings(method_inputs):
    """In the shares of its pixels; for dims that is the mixture of the two softmaxes."""
    method = FkdSsl(method_inputs(options=SslConfig(loss="dims")))
    generator = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(4, 6, generator=generator) for _ in range(2))
    partner = torch.tensor([1, 0, 3, 2])
    batch = Batch(
        (torch.zeros(4, 3, 8, 8, dtype=torch.uint8),), torch.full((4,), -1), Embeddings(teacher)
    ).mixed(Mix(partner, 0.7, None, (8, 8)))
    unit = [torch.nn.functional.normalize(rows, dim=1) / 0.2 for rows in (teacher, student)]
    q = torch.softmax(unit[0], 1)
    mixed = 0.7 * q + 0.3 * q[partner]
    expected = -(mixed * torch.log_softmax(unit[1], 1)).sum(1).mean()
    torch.testing.assert_close(method.loss(student, method.targets(batch)), expected)
