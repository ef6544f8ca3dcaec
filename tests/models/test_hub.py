"""Pretrained weights where no hub answers."""

import socket
import time

import pytest
from huggingface_hub import constants

from fkd.errors import ConfigError
from fkd.models import hub
from fkd.models.zoo import load_model


@pytest.fixture
def silent_hub(monkeypatch, tmp_path):
    """A server that takes connections and never says a word, and an empty cache."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub.quick_answers.__wrapped__, "__defaults__", (0.3,))
        yield


def test_the_answer_comes_soon(silent_hub):
    started = time.monotonic()
    with pytest.raises(ConfigError, match=r"does not answer.*give a checkpoint"):
        load_model("test_vit", pretrained=True)
    assert time.monotonic() - started < 5
    assert not constants.HF_HUB_OFFLINE


def test_nothing_answers_at_a_closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert not hub._answers(f"http://127.0.0.1:{port}", 2.0)
