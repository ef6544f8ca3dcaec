"""What a command sets up for its process; only a fresh process can show it."""

import os
import subprocess
import sys

import pytest


def spins_seen_by(users: dict[str, str]) -> str:
    """GOMP_SPINCOUNT after `prepare_process`, before torch could have been imported."""
    code = (
        "import os, sys; from fkd.cli.process import prepare_process; prepare_process(); "
        "assert 'torch' not in sys.modules; print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    own = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in own} | users
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("users", "seen"),
    [({}, "20000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_waiting_threads_soon_sleep_unless_the_user_says_otherwise(users, seen):
    assert spins_seen_by(users) == seen
