"""What a command sets up for its process; only a fresh process can show it."""

import os
import subprocess
import sys

import pytest


def policy_seen_by(environment: dict[str, str]) -> str:
    """OMP_WAIT_POLICY after `prepare_process`, before torch could have been imported."""
    code = (
        "import os, sys; from fkd.cli.process import prepare_process; prepare_process(); "
        "assert 'torch' not in sys.modules; print(os.environ['OMP_WAIT_POLICY'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize(("users", "seen"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_sleep_unless_the_user_says_otherwise(users, seen):
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    environment |= {} if users is None else {"OMP_WAIT_POLICY": users}
    assert policy_seen_by(environment) == seen
