"""Exported files give what the network gives, say what they are, and are refused otherwise."""

import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import timm
import torch
from torch import nn

import fkd.export.formats
from fkd.data.sources import ImagesConfig
from fkd.errors import ConfigError, ExportError, RunError
from fkd.export import cost
from fkd.export.comparison import compare
from fkd.export.config import ExportConfig, LatencyConfig, TeacherToTime
from fkd.export.formats import FORMATS, Exported, export_onnx, export_program
from fkd.export.network import ExportedInterface, ExportedNetwork
from fkd.export.run import ExportProgress, export
from fkd.models.preprocessing import Preprocessing
from fkd.models.zoo import load_model
from fkd.training.config import StudentConfig, TrainConfig
from fkd.training.run import train

SIDE = 32
NO_LATENCY = LatencyConfig(runs=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_images) -> Path:
    """The folder of a student that was trained for four steps, and its images beside it."""
    root = tmp_path_factory.mktemp("export")
    config = TrainConfig(
        out=str(root / "run"),
        images=ImagesConfig(root=str(make_images(root / "images"))),
        student=StudentConfig(name="test_resnet", input_size=SIDE),
        method="vanilla",
        epochs=2,
        batch_size=8,
        num_workers=0,
        device="cpu",
    )
    train(config)
    return root / "run"


@pytest.fixture
def config(run, tmp_path) -> ExportConfig:
    return ExportConfig(str(run), out=str(tmp_path / "x" / "student.onnx"), latency=NO_LATENCY)


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    """An export with everything that is measured, and its report."""
    config = ExportConfig(
        str(run),
        out=str(tmp_path_factory.mktemp("written") / "student.onnx"),
        images=ImagesConfig(root=str(run.parent / "images")),
        teacher=TeacherToTime(name="test_vit"),
        latency=LatencyConfig(batch_sizes=(1, 2), runs=5),
    )
    return config, export(config)


def other_crops(num_crops, side=SIDE):
    """Crops that the export has not compared."""
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (num_crops, 3, side, side), dtype=torch.uint8, generator=generator)


def run_onnx(file, inputs):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (name,) = [each.name for each in session.get_inputs()]
    return torch.from_numpy(session.run(None, {name: inputs.numpy()})[0])


@torch.no_grad()
def outputs_of(run, crops):
    loaded = load_model(str(run))
    return loaded.model.eval()(loaded.preprocessing.normalize(crops))


def assert_names_no_file(file):
    for path in (timm.__file__, torch.__file__, __file__):
        assert str(Path(path).parent).encode() not in file.read_bytes()


class TestStudent:
    @pytest.mark.parametrize("num_crops", [1, 3, 17])
    def test_gives_the_outputs_of_torch_for_any_number_of_crops(self, run, written, num_crops):
        crops = other_crops(num_crops)
        pixels = load_model(str(run)).preprocessing.normalize(crops).contiguous()
        found = run_onnx(written[1].path, pixels)
        assert (found - outputs_of(run, crops)).abs().max() < 1e-4
        assert written[1].comparison.max_difference < 1e-4

    def test_says_what_it_takes_and_gives(self, written):
        model = onnx.load(written[1].path)
        texts = {each.key: json.loads(each.value) for each in model.metadata_props}
        assert texts["class_names"] == ["ant", "bee", "cat"]
        assert texts["preprocessing"] == {
            "input": "pixel_values",
            "dtype": "float32",
            "layout": "NCHW, RGB",
            "normalized_inside": False,
            "input_size": SIDE,
            "crop_pct": 0.95,
            "interpolation": "bilinear",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        }
        assert (texts["fkd"]["architecture"], texts["fkd"]["outputs"]) == ("test_resnet", "logits")
        assert model.graph.input[0].name == "pixel_values"
        assert model.graph.output[0].name == "logits"

    def test_the_report_beside_it(self, written, run):
        config, report = written
        fields = json.loads(Path(f"{config.out}.json").read_text())
        assert fields["num_bytes"] == Path(config.out).stat().st_size
        assert fields["comparison"]["num_crops"] == 15  # there are no more images
        assert fields["comparison"]["relative_difference"] < fields["comparison"]["tolerance"]
        parameters = sum(p.numel() for p in load_model(str(run)).model.parameters())
        assert fields["sizes"]["test_resnet"]["parameters"] == parameters
        assert fields["sizes"]["teacher test_vit"]["input_size"] == 160
        rows = [(row["network"], row["runtime"], row["batch_size"]) for row in fields["latencies"]]
        assert rows == [
            (network, runtime, batch)
            for network, runtime in (
                ("test_resnet", "onnxruntime"),
                ("test_resnet", "torch"),
                ("teacher test_vit", "torch"),
            )
            for batch in (1, 2)
        ]
        for row in fields["latencies"]:
            assert 0 < row["p10_ms"] <= row["median_ms"] <= row["p90_ms"]
            assert row["runs"] == 5
        assert report.report_path == Path(f"{config.out}.json")

    def test_names_no_file_of_this_machine(self, written):
        assert_names_no_file(written[1].path)

    def test_normalization_and_softmax_inside(self, config, run):
        report = export(replace(config, normalize=True, softmax=True))
        crops = other_crops(3)
        found = run_onnx(report.path, crops)
        assert (found - outputs_of(run, crops).softmax(1)).abs().max() < 1e-5
        assert report.outputs == "probabilities"
        assert report.preprocessing["dtype"] == "uint8"

    def test_a_program_of_torch_export(self, config, run, tmp_path):
        file = tmp_path / "student.pt2"
        report = export(replace(config, out=str(file), format="pt2"))
        extra = {"fkd.json": ""}
        program = torch.export.load(io.BytesIO(file.read_bytes()), extra_files=extra).module()
        crops = other_crops(3)
        pixels = load_model(str(run)).preprocessing.normalize(crops)
        assert (program(pixels) - outputs_of(run, crops)).abs().max() < 1e-4
        assert json.loads(extra["fkd.json"])["class_names"] == ["ant", "bee", "cat"]
        assert json.loads(extra["fkd.json"])["preprocessing"] == report.preprocessing
        assert_names_no_file(file)

    def test_embeddings(self, config, tmp_path):
        network = load_model("test_resnet", headless=True).model
        safetensors.torch.save_file(network.state_dict(), tmp_path / "backbone.safetensors")
        (tmp_path / "config.json").write_text(
            json.dumps({"architecture": "test_resnet", "num_classes": 0, "pretrained_cfg": {}})
        )
        (tmp_path / "backbone.safetensors").rename(tmp_path / "model.safetensors")
        embeds = replace(config, model=str(tmp_path), format="pt2", out=str(tmp_path / "e.pt2"))
        report = export(embeds)
        assert (report.outputs, report.num_outputs) == ("embeddings", network.num_features)
        for changes in ({"softmax": True}, {"class_names": str(tmp_path / "config.json")}):
            with pytest.raises(ConfigError, match="gives embeddings, which are no classes"):
                export(replace(embeds, **changes))


def shallow_reactnet():
    """The first two of the blocks of ReActNet, with random weights."""
    loaded = load_model("reactnet_a", num_classes=5, input_size=SIDE)
    model = loaded.model
    model.blocks, model.head = (
        model.blocks[:2],
        nn.Linear(model.blocks[1].norms2[0].num_features * 2, 5),
    )
    return loaded


def tiny(name, side=SIDE):
    return lambda: load_model(name, num_classes=5, input_size=side)


KINDS = {
    "test_vit": tiny("test_vit"),
    "torchvision/resnet18": tiny("torchvision/resnet18"),
    "reactnet": shallow_reactnet,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("export_as", [export_onnx, export_program])
def test_every_kind_of_network(kind, export_as):
    torch.manual_seed(0)
    loaded = KINDS[kind]()
    interface = ExportedInterface(
        loaded.preprocessing, list("abcde"), normalize=False, softmax=False
    )
    network = ExportedNetwork(loaded.model, loaded.preprocessing, normalize=False, softmax=False)
    run = export_as(network, interface, {"fkd": "{}"}).open()
    result = compare(run, loaded.model, interface, other_crops(3), "of noise")
    assert result.relative_difference < 1e-4
    assert result.same_top1 == 1


def test_attention_is_written_out_for_the_exporter_alone(monkeypatch):
    """torch does not split the fused operator up where tokens are transposed, as in MaxViT."""
    loaded = load_model("test_vit", num_classes=2, input_size=SIDE)
    seen = []

    def look(network, *rest, **settings):
        seen.extend(attention_of(network))
        raise RuntimeError("seen enough")

    def attention_of(network):
        return [m.fused_attn for m in network.modules() if hasattr(m, "fused_attn")]

    monkeypatch.setattr(torch.onnx, "export", look)
    interface = ExportedInterface(loaded.preprocessing, ["a", "b"], normalize=False, softmax=False)
    with pytest.raises(ExportError, match="seen enough"):
        export_onnx(loaded.model, interface, {})
    assert seen
    assert not any(seen)
    assert all(attention_of(loaded.model))


class Branching(nn.Module):
    """Does one thing or another as its crops say, which no file can."""

    def forward(self, crops):
        total = crops.flatten(1).sum(1, keepdim=True)
        return total if total.sum() > 0 else -total


EXPECTED = Preprocessing(
    input_size=8, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0
)


@pytest.mark.parametrize("name", FORMATS)
def test_a_network_that_cannot_be_captured(name):
    interface = ExportedInterface(EXPECTED, ["a"], normalize=False, softmax=False)
    network = ExportedNetwork(Branching(), EXPECTED, normalize=False, softmax=False)
    with pytest.raises(ExportError, match=f"torch cannot export this network as {name} ") as caught:
        FORMATS[name].export(network, interface, {})
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


CHANGES = {
    "other outputs": (lambda outputs: outputs * 1.001, r"0\.001 of the largest, and 0\.0001"),
    "NaN": (lambda outputs: outputs * float("nan"), "differ by up to nan"),
    "fewer outputs": (lambda outputs: outputs[:, :2], r"shape \(15, 2\) in the place of"),
    "fewer crops": (lambda outputs: outputs[:1], r"shape \(1, 3\) in the place of"),
}


class TestRefusals:
    @pytest.mark.parametrize("kind", CHANGES)
    def test_other_outputs_leave_no_file(self, config, kind, run, monkeypatch):
        change, words = CHANGES[kind]
        loaded = load_model(str(run)).model.eval()

        def export_changed(network, interface, metadata):
            return Exported(b"", "here", lambda: lambda crops: change(loaded(crops)), {})

        monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], export=export_changed))
        config = replace(config, images=ImagesConfig(root=str(run.parent / "images")))
        with pytest.raises(ExportError, match=words):
            export(config)
        assert list(Path(config.out).parent.iterdir()) == []

    def test_a_network_that_gives_no_numbers(self):
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
        nn.init.constant_(model[1].bias, float("inf"))
        interface = ExportedInterface(EXPECTED, ["a", "b"], normalize=False, softmax=False)
        with pytest.raises(ExportError, match="not finite"):
            compare(model, model, interface, other_crops(2, 8), "of noise")

    def test_the_difference_is_relative_to_the_largest_output(self):
        interface = ExportedInterface(EXPECTED, ["a", "b"], normalize=False, softmax=False)

        def network(crops):
            return torch.tensor([[1000.0, 1.0]]).expand(len(crops), 2)

        def run(crops):
            return network(crops) + 0.05

        result = compare(run, network, interface, other_crops(2, 8), "of noise")
        assert result.relative_difference == pytest.approx(5e-5, rel=1e-3)
        with pytest.raises(ExportError):
            compare(lambda x: network(x) + 0.2, network, interface, other_crops(2, 8), "of noise")

    def test_only_its_own_files_are_replaced(self, config, tmp_path):
        config = replace(config, format="pt2", out=str(tmp_path / "student.pt2"))
        file = Path(config.out)
        file.write_bytes(b"of somebody")
        with pytest.raises(ConfigError, match=r"was not written by `fkd export .*--overwrite"):
            export(config)
        assert file.read_bytes() == b"of somebody"
        export(replace(config, overwrite=True))
        written = file.stat().st_mtime_ns
        export(config)  # which is its own now
        assert file.stat().st_mtime_ns > written
        with pytest.raises(ConfigError, match="is there and was not written"):
            export(replace(config, format="onnx", out=str(file.rename(tmp_path / "student"))))

    def test_an_onnx_file_of_its_own_is_known(self, written, tmp_path):
        is_ours = FORMATS["onnx"].is_ours
        assert is_ours(written[1].path)
        model = onnx.load(written[1].path)
        del model.metadata_props[:]
        onnx.save(model, tmp_path / "other.onnx")
        (tmp_path / "empty.onnx").touch()
        assert not is_ours(tmp_path / "other.onnx")
        assert not is_ours(tmp_path / "empty.onnx")

    @pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
    def test_without_the_extra(self, config, missing, monkeypatch):
        def find(name):
            return None if name == missing else object()

        monkeypatch.setattr(fkd.export.formats, "find_spec", find)
        with pytest.raises(ConfigError, match=rf"needs {missing}; .*'fkd\[export\]'"):
            export(config)

    def test_weights_that_no_onnx_file_can_hold(self, config, monkeypatch):
        monkeypatch.setattr(fkd.export.formats, "_LARGEST_ONNX", 1000)
        with pytest.raises(ExportError, match="an ONNX file holds 2 GB; use --format pt2"):
            export(config)

    def test_a_full_disk(self, config, monkeypatch, tmp_path):
        def full(descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        out = tmp_path / "student.pt2"
        with pytest.raises(RunError, match=r"cannot write .*no space left .* same command again$"):
            export(replace(config, format="pt2", out=str(out)))
        assert list(tmp_path.glob("student*")) == []

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"format": "tflite"}, "format: 'tflite' is none of onnx, pt2"),
            ({"out": "student.pt2"}, "is named as a file of format pt2, and format is onnx"),
            ({"input_size": 0}, "input_size must be at least 1"),
            (
                {"teacher": TeacherToTime(name="resnet18"), "store": "labels"},
                "the teachers of labels are timed already",
            ),
        ],
    )
    def test_settings(self, config, changes, words):
        with pytest.raises(ConfigError, match=words):
            replace(config, **changes)

    def test_settings_of_groups(self):
        for make, words in (
            (lambda: LatencyConfig(runs=-1), r"latency\.runs"),
            (lambda: LatencyConfig(batch_sizes=(0,)), r"latency\.batch_sizes"),
            (lambda: TeacherToTime(input_size=32), r"teacher\.input_size: no teacher\.name"),
        ):
            with pytest.raises(ConfigError, match=words):
                make()

    def test_a_folder_as_the_file(self, config, tmp_path):
        with pytest.raises(ConfigError, match=r"is a folder; .*student\.onnx"):
            export(replace(config, out=str(tmp_path)))

    def test_names_that_do_not_fit(self, config, tmp_path):
        (tmp_path / "names.txt").write_text("a\nb\n")
        with pytest.raises(ConfigError, match=r"names 2 classes, but .* has 3"):
            export(replace(config, class_names=str(tmp_path / "names.txt")))


def test_latency_is_that_of_so_many_runs(monkeypatch):
    clock = iter(np.cumsum([0, 1, 0, 2, 0, 3, 0, 9]).tolist())
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    calls = []
    settings = LatencyConfig(runs=4, seconds=100)
    found = cost.measure_latency(lambda: calls.append(1), settings, "x", "torch", 2)
    assert len(calls) == 4 + 2  # two are not timed
    assert (found.median_ms, found.runs) == (2500, 4)
    assert (found.p10_ms, found.p90_ms) == (pytest.approx(1300), pytest.approx(7200))
    assert found.crops_per_second == pytest.approx(0.8)


def test_a_slow_figure_has_fewer_runs(monkeypatch):
    clock = iter(range(0, 1000, 5))
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    settings = LatencyConfig(runs=50, seconds=1)
    assert cost.measure_latency(lambda: None, settings, "x", "torch", 1).runs == 3


def test_operations_are_counted_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(256, 5))
    size = cost.measure_size(model, EXPECTED)
    assert size.macs == 8 * 8 * 4 * 3 * 3 * 3 + 256 * 5
    assert size.parameters == 4 * 27 + 4 + 256 * 5 + 5


def test_the_teachers_of_a_store(config, label_store, tmp_path):
    """Its teacher is called "color", which is no network."""

    class Remarks(ExportProgress):
        def __init__(self):
            self.remarks = []

        def remark(self, text):
            self.remarks.append(text)

    progress = Remarks()
    out = str(tmp_path / "student.pt2")
    export(replace(config, format="pt2", out=out, store=str(label_store.path)), progress)
    assert len(progress.remarks) == 1
    assert "is not timed: unknown model 'color'" in progress.remarks[0]
