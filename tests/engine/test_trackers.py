"""Trackers besides TensorBoard: what they are told, by accelerate's own classes on stand-ins."""

import json
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
from accelerate import PartialState

from fkd.engine.trackers import PACKAGES, Trackers, parse_trackers, require_trackers
from fkd.errors import ConfigError

SETTINGS = {"epochs": 3, "optimizer": {"lr": 0.1, "betas": [0.9, 0.99]}, "store": None}
LINE = {"step": 4, "epoch": 1.0, "loss": 0.5, "train_top1": None}


class Service:
    """Remembers what a tracker asks of wandb or mlflow; fails at lines beyond `fails_at`."""

    def __init__(self):
        self.begun, self.config, self.lines, self.ended = [], {}, [], 0
        self.fails_at = 10**9

    def record(self, values, step):
        if step >= self.fails_at:
            raise ConnectionError("no route to host")
        self.lines.append((step, dict(values)))

    def finish(self):
        self.ended += 1


def stand_in(name):
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)  # accelerate asks whether it could be imported
    return module


@pytest.fixture
def wandb(monkeypatch):
    service, module = Service(), stand_in("wandb")

    def init(**options):
        service.begun.append(options)
        return SimpleNamespace(
            log=lambda values, step=None: service.record(values, step), finish=service.finish
        )

    module.init, module.config = (
        init,
        SimpleNamespace(update=lambda values, **_: service.config.update(values)),
    )
    monkeypatch.setitem(sys.modules, "wandb", module)
    return service


@pytest.fixture
def mlflow(monkeypatch):
    service, module = Service(), stand_in("mlflow")

    def start_run(run_id=None, **options):
        service.begun.append({"run_id": run_id, **options})
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or f"run{len(service.begun)}"))

    module.start_run = start_run
    module.search_experiments = lambda **_: []
    module.create_experiment = lambda **_: "1"
    module.log_params = service.config.update
    module.log_metrics = lambda metrics, step=None: service.record(metrics, step)
    module.end_run = service.finish
    module.utils = SimpleNamespace(
        validation=SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100)
    )
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return service


@pytest.fixture(autouse=True)
def process():
    """What an accelerator of a run brings: accelerate's trackers ask which process this is."""
    PartialState(cpu=True)


@pytest.fixture(params=["wandb", "mlflow"])
def name(request):
    return request.param


@pytest.fixture
def service(name, request):
    return request.getfixturevalue(name)


def open_trackers(name, folder, warned):
    return Trackers([name], folder, SETTINGS, warned.append)


def test_a_run_is_told_with_its_settings_and_lines(name, service, tmp_path):
    trackers = open_trackers(name, tmp_path, warned := [])
    trackers.write(LINE)
    trackers.close()
    assert service.config["optimizer.lr"] == 0.1
    assert service.config["optimizer.betas"] == "[0.9, 0.99]"
    assert service.lines == [(4, {"epoch": 1.0, "loss": 0.5})]
    assert service.begun[0].get("name", service.begun[0].get("run_name")) == tmp_path.name
    assert (service.ended, warned) == (1, [])


def test_a_run_that_is_resumed_is_the_same_there(name, service, tmp_path):
    for _ in range(2):
        open_trackers(name, tmp_path, []).close()
    stored = json.loads((tmp_path / "trackers.json").read_text())
    known = "id" if name == "wandb" else "run_id"
    assert service.begun[1][known] == stored[name]
    assert service.begun[0][known] in (None, stored[name])
    assert (name == "mlflow") or service.begun[1]["resume"] == "allow"


def test_a_service_that_fails_later_is_left_out_with_a_warning(name, service, tmp_path):
    trackers = open_trackers(name, tmp_path, warned := [])
    service.fails_at = 6
    for step in (4, 6, 8):
        trackers.write(LINE | {"step": step})
    trackers.close()
    assert [step for step, _ in service.lines] == [4]
    assert len(warned) == 1
    assert "no route to host" in warned[0]
    assert name in warned[0]


def test_a_service_that_cannot_start_ends_the_run_at_once(wandb, tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError("not logged in")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    with pytest.raises(ConfigError, match=r"wandb cannot start \(PermissionError: not logged in\)"):
        open_trackers("wandb", tmp_path, [])


@pytest.mark.parametrize("text", ["", "tensorbord", "wandb,,mlflow", "wandb,wandb", "none,wandb"])
def test_impossible_lists_are_refused(text):
    with pytest.raises(ConfigError, match="trackers"):
        parse_trackers(text)


@pytest.mark.parametrize("missing", sorted(set(PACKAGES) - {"tensorboard"}))
def test_a_missing_package_is_named(missing, monkeypatch):
    monkeypatch.setattr("fkd.engine.trackers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=f"pip install {PACKAGES[missing]}"):
        require_trackers(missing)
    require_trackers("none")


def test_all_are_known_to_accelerate():
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    assert set(PACKAGES) <= set(LOGGER_TYPE_TO_CLASS)
