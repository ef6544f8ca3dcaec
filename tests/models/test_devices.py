"""Any device that torch offers; one that is not there is refused with those that are."""

import pytest
import torch

from fkd.cli import main
from fkd.errors import ConfigError
from fkd.models import devices
from fkd.models.devices import available_devices, describe_device, resolve_device

KINDS = ("cuda", "mps", "xpu", "hpu", "npu", "mtia", "privateuseone", "meta", "vulkan")


def absent():
    here = {name.partition(":")[0] for name in available_devices()}
    return [kind for kind in KINDS if kind not in here]


def test_the_cpu_is_always_there():
    assert resolve_device("cpu") == resolve_device("cpu:0") == torch.device("cpu")
    assert available_devices()[0] == "cpu"
    assert describe_device(torch.device("cpu")) == "cpu"


@pytest.mark.parametrize(
    "name", [*absent(), "cuda:99", "mps:3", "gpu", "", "cuda:x", "cuda:-1", "1"]
)
def test_others_are_refused(name):
    with pytest.raises(ConfigError, match=r"cannot be used here: .*; use cpu") as caught:
        resolve_device(name)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("verb", ["label", "plan", "label-maps", "train", "eval"])
@pytest.mark.parametrize("name", ["mps", "cuda:99", "gpu"])
def test_every_verb(verb, name, tmp_path, image_folder, label_store, capsys):
    if name in available_devices():
        pytest.skip("it is there")
    images = ["--images.root", str(image_folder), "--device", name]
    out = ["--out", str(tmp_path / "out")]
    torch.save({}, tmp_path / "x.pth")
    teacher = ["--teacher.name", "test_resnet", "--teacher.checkpoint", str(tmp_path / "x.pth")]
    arguments = {
        "label": [*images, *teacher, *out],
        "plan": [*images, *teacher, *out],
        "label-maps": [*images, *teacher, *out],
        "train": [*images, *out, "--store", str(label_store.path), "--student.name", "test_resnet"],
        "eval": ["test_resnet", *images],
    }[verb]
    with pytest.raises(SystemExit, match="2"):
        main([verb, *arguments])
    assert f"device: '{name}' cannot be used here" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


class Fake:
    """A machine with four devices of a kind."""

    @staticmethod
    def is_available():
        return True

    @staticmethod
    def device_count():
        return 4


class TestSeveral:
    @pytest.fixture(autouse=True)
    def four(self, monkeypatch):
        monkeypatch.setattr(devices.torch, "get_device_module", lambda kind: Fake)
        monkeypatch.setattr(devices.torch, "empty", lambda *_, device: None)

    @pytest.mark.parametrize("kind", ["cuda", "xpu", "mps"])
    def test_the_local_rank_picks_one_where_none_is_named(self, kind):
        assert [resolve_device(kind, rank).index for rank in range(5)] == [0, 1, 2, 3, 0]
        assert resolve_device(f"{kind}:2", 1) == torch.device(kind, 2)
        with pytest.raises(ConfigError, match="there are 4, counted from 0"):
            resolve_device(f"{kind}:4")
