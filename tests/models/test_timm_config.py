"""What a run writes beside its weights is loaded by timm and by transformers: same outputs."""

import json
from dataclasses import replace

import pytest
import safetensors.torch
import timm
import torch

from fkd.models.cards import ModelCard
from fkd.models.names import parse_model_name
from fkd.models.preprocessing import has_fixed_input_size
from fkd.models.timm_config import describe_network
from fkd.models.zoo import load_model

NAMES = ["ant", "bee", "cat"]
SIDE = 96  # that every tiny network of timm takes
ONLY_AT_THEIR_OWN_SIZE = {"test_coatnet": 160, "test_maxvit": 160}
TINY = timm.list_models("test_*")
OF_FKD = ["reactnet_a", "sret_t"]


def write_run(folder, name, *, side=SIDE, classes=NAMES, interpolation="bilinear", **options):
    """The folder of a network with random weights, as training leaves it; and the network."""
    torch.manual_seed(0)
    headless = {"headless": True} if not classes else {"num_classes": len(classes)}
    built = load_model(name, input_size=side, **headless, **options)
    expected = replace(built.preprocessing, interpolation=interpolation, mean=(0.4, 0.3, 0.2))
    kwargs = {"img_size": side} if has_fixed_input_size(parse_model_name(name)) else {}
    card = ModelCard(built.name, built.num_classes, expected, kwargs, built.license)
    folder.mkdir()
    config = describe_network(built.model, card, classes)
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(
        built.model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"}
    )
    return built.model.eval(), expected


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


@torch.no_grad()
def outputs(model, side=SIDE):
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    return model.eval()(images)


class TestTimm:
    @pytest.mark.parametrize("name", [*TINY, *OF_FKD])
    def test_loads_every_kind_of_network(self, tmp_path, name):
        side = ONLY_AT_THEIR_OWN_SIZE.get(name, SIDE)
        model, expected = write_run(tmp_path / "run", name, side=side)
        loaded = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True)
        assert torch.equal(outputs(loaded, side), outputs(model, side))
        assert loaded.pretrained_cfg["label_names"] == NAMES
        found = timm.data.resolve_data_config(model=loaded)
        assert tuple(found["input_size"]) == (3, side, side)
        assert (found["interpolation"], tuple(found["mean"])) == ("bilinear", expected.mean)
        assert found["crop_pct"] == expected.crop_pct

    @pytest.mark.parametrize(("name", "side"), [("resnet18", 65), ("test_vit", 64)])
    def test_evaluates_at_no_other_size_than_that_of_training(self, tmp_path, name, side):
        """Of many networks timm knows a larger size for evaluation, with its own weights."""
        write_run(tmp_path / "run", name, side=side)
        loaded = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True)
        config = timm.data.resolve_data_config(model=loaded, use_test_size=True)
        assert tuple(config["input_size"]) == (3, side, side)

    def test_starts_another_head(self, tmp_path):
        model, _ = write_run(tmp_path / "run", "test_resnet")
        loaded = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True, num_classes=7)
        assert torch.equal(loaded.conv1[0].weight, model.conv1[0].weight)
        assert outputs(loaded).shape == (2, 7)

    def test_trained_with_stochastic_depth(self, tmp_path):
        model, _ = write_run(tmp_path / "run", "test_vit", drop_path_rate=0.2, drop_rate=0.1)
        loaded = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True)
        assert torch.equal(outputs(loaded), outputs(model))

    def test_loads_a_network_of_embeddings(self, tmp_path):
        model, _ = write_run(tmp_path / "run", "test_resnet", classes=[])
        loaded = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True)
        assert loaded.num_classes == 0
        assert torch.equal(outputs(loaded), outputs(model))

    def test_refuses_a_network_of_torchvision_by_its_name(self, tmp_path):
        model, _ = write_run(tmp_path / "run", "torchvision/resnet18")
        with pytest.raises(RuntimeError, match="torchvision/resnet18"):
            timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True)
        loaded = load_model(checkpoint=str(tmp_path / "run"))
        assert loaded.class_names == NAMES
        assert torch.equal(outputs(loaded.model), outputs(model))


class TestTransformers:
    @pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "sret_t"])
    def test_loads(self, transformers, tmp_path, name):
        model, expected = write_run(tmp_path / "run", name)
        loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "run")
        assert torch.equal(outputs(loaded).logits, outputs(model))
        assert loaded.config.id2label == dict(enumerate(NAMES))
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "run")
        assert tuple(processor.data_config["input_size"]) == (3, SIDE, SIDE)
        assert tuple(processor.data_config["mean"]) == expected.mean

    def test_loads_embeddings_as_a_model_without_classes(self, transformers, tmp_path):
        model, _ = write_run(tmp_path / "run", "test_resnet", classes=[])
        loaded = transformers.AutoModel.from_pretrained(tmp_path / "run")
        assert torch.equal(outputs(loaded).pooler_output, outputs(model))


def test_classes_of_imagenet_and_odd_names(tmp_path):
    for number, names in enumerate((["n02123045", "n02124075"], ["</b>", "ä\n\u2028"], ["0", "1"])):
        folder = tmp_path / str(number)
        write_run(folder, "test_resnet", classes=names)
        assert load_model(str(folder)).class_names == names


def test_nothing_of_this_machine_is_in_it(tmp_path):
    write_run(tmp_path / "run", "test_resnet")
    text = (tmp_path / "run" / "config.json").read_text()
    assert str(tmp_path) not in text
    assert not any(word in text for word in ("file", "url", "hf_hub"))
