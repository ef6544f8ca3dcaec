"""What a model folder says of its network is used, no matter who wrote it, but never run."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from fkd.errors import ConfigError
from fkd.models.network_arguments import ALLOWED
from fkd.models.teacher import TeacherConfig, load_teachers
from fkd.models.zoo import load_model

TINY = "test_resnet"
COLORS = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
NAMES = ["ant", "bee", "cat"]
INPUT = {"input_size": [3, 48, 48], "interpolation": "bilinear", "crop_pct": 0.75, **COLORS}


def timm_config(**changes):
    return {
        "architecture": TINY,
        "num_classes": 3,
        "pretrained_cfg": {**INPUT, "tag": "in1k", "label_names": NAMES},
        **changes,
    }


LAYOUTS = {
    "timm": {"config.json": timm_config()},
    "timm, labels above": {"config.json": timm_config(pretrained_cfg=INPUT, label_names=NAMES)},
    "timm, one level": {
        "config.json": {"architecture": TINY, "num_classes": 3, "labels": NAMES, **INPUT}
    },
    "timm in transformers": {
        "config.json": timm_config(model_type="timm_wrapper"),
        "preprocessor_config.json": {"data_config": {}},
    },
    "fkd": {
        "config.json": timm_config(pretrained_cfg=INPUT, label_names=NAMES, fkd={"head": False})
    },
}
PROCESSOR = {"image_mean": COLORS["mean"], "image_std": COLORS["std"], "resample": 2}
SIZES = (
    {"size": 48, "crop_pct": 0.75},
    {"size": {"height": 48, "width": 48}, "crop_pct": 0.75},
    {"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 48}},
    {"size": 64, "crop_size": 48, "do_center_crop": True},
    {"size": {"shortest_edge": 48}, "crop_size": 32, "do_center_crop": False, "crop_pct": 0.75},
)


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return timm.create_model(TINY, num_classes=3).state_dict()


@pytest.fixture
def folder(tmp_path, state):
    def write(files, prefix="", weights="model.safetensors"):
        path = tmp_path / "model"
        path.mkdir(exist_ok=True)
        named = {prefix + name: value for name, value in state.items()}
        if weights.endswith(".bin"):
            torch.save(named, path / weights)
        else:
            save_file(named, path / weights)
        for name, content in files.items():
            (path / name).write_text(json.dumps(content), encoding="utf-8")
        return path

    return write


def assert_read(loaded):
    found = loaded.preprocessing
    assert (found.input_size, found.interpolation, found.crop_pct) == (48, "bilinear", 0.75)
    assert found.mean == pytest.approx((0.1, 0.2, 0.3))
    assert found.std == pytest.approx((0.4, 0.5, 0.6))
    assert loaded.class_names == NAMES


class TestLayouts:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
    def test_read(self, folder, layout, weights):
        path = folder(LAYOUTS[layout], "timm_model.", weights)
        for options in ({"checkpoint": str(path)}, {"name": str(path)}):
            assert_read(load_model(**options))
        assert_read(load_model(checkpoint=str(path / weights)))
        assert_read(load_model(TINY, checkpoint=str(path)))

    @pytest.mark.parametrize("size", SIZES)
    def test_transformers(self, folder, size):
        labels = {str(i): name for i, name in enumerate(NAMES)}
        files = {
            "config.json": {"model_type": "resnet", "id2label": labels},
            "preprocessor_config.json": {**PROCESSOR, **size},
        }
        path = folder(files)
        assert_read(load_model(TINY, checkpoint=str(path)))
        with pytest.raises(ConfigError, match="is a model of transformers"):
            load_model(checkpoint=str(path))

    def test_transformers_without_normalization_or_with_another_scale(self, folder):
        config = {"model_type": "resnet", "num_labels": 3}
        plain = {"size": 48, "do_normalize": False}
        path = folder({"config.json": config, "preprocessor_config.json": plain})
        found = load_model(TINY, checkpoint=str(path)).preprocessing
        assert (found.mean, found.std) == ((0, 0, 0), (1, 1, 1))
        scaled = {**PROCESSOR, "size": 48, "rescale_factor": 1 / 127.5}
        path = folder({"config.json": config, "preprocessor_config.json": scaled})
        found = load_model(TINY, checkpoint=str(path)).preprocessing
        pixels = torch.tensor([0.0, 100.0, 255.0])
        theirs = (pixels / 127.5 - 0.1) / 0.4
        assert torch.allclose((pixels / 255 - found.mean[0]) / found.std[0], theirs, atol=1e-5)

    def test_saved_by_timm_itself(self, tmp_path):
        hub = pytest.importorskip("timm.models._hub")
        model = timm.create_model(TINY, num_classes=3)
        model.pretrained_cfg = {**model.pretrained_cfg, **INPUT}
        more = {"label_names": NAMES}
        hub.save_for_hf(model, tmp_path / "x", model_config=more, safe_serialization=True)
        loaded = load_model(str(tmp_path / "x"))
        assert loaded.preprocessing.mean == (0.1, 0.2, 0.3)
        assert loaded.class_names == NAMES

    @pytest.mark.parametrize("content", ["{}", "[1]", '{"model_type": "vit"}', "no json"])
    def test_a_file_beside_a_strange_config_is_a_file_alone(self, folder, content):
        path = folder({})
        (path / "config.json").write_text(content)
        loaded = load_model(TINY, checkpoint=str(path / "model.safetensors"))
        assert (loaded.num_classes, loaded.class_names) == (3, None)

    def test_a_tag_says_nothing_of_these_weights(self, folder):
        path = folder({"config.json": timm_config(architecture=f"{TINY}.somebodys")})
        assert_read(load_model(str(path)))

    def test_placeholders_are_no_names(self, folder):
        labels = {str(i): f"LABEL_{i}" for i in range(3)}
        files = {
            "config.json": {"model_type": "resnet", "id2label": labels},
            "preprocessor_config.json": {**PROCESSOR, "size": 48},
        }
        assert load_model(TINY, checkpoint=str(folder(files))).class_names is None

    @pytest.mark.parametrize(
        ("files", "words"),
        [
            ({"config.json": {}}, "neither timm's"),
            ({"config.json": [1]}, "neither timm's"),
            ({"config.json": timm_config(num_classes=2)}, "names 3 classes, but the model has 2"),
            ({"config.json": timm_config(pretrained_cfg=3)}, "pretrained_cfg is no object"),
            ({"config.json": timm_config(pretrained_cfg={**INPUT, "std": [0, 1, 1]})}, "std"),
            (
                {"config.json": timm_config(pretrained_cfg={**INPUT, "input_size": [3, 48, 32]})},
                "only squares",
            ),
            ({"config.json": timm_config(model_args={"in_chans": 1})}, "three colors"),
            (
                {"config.json": timm_config(pretrained_cfg={**INPUT, "input_size": [1, 48, 48]})},
                "three colors",
            ),
            (
                {"config.json": timm_config(pretrained_cfg={**INPUT, "mean": [124, 116, 104]})},
                "where white is 1",
            ),
            (
                {"config.json": timm_config(pretrained_cfg={**INPUT, "mean": [0.5]})},
                "mean must be three numbers",
            ),
            (
                {
                    "config.json": {"model_type": "vit"},
                    "preprocessor_config.json": {**PROCESSOR, "size": 0},
                },
                "images of 0, which have no pixels",
            ),
            ({"config.json": {"model_type": "vit"}}, "preprocessor_config.json"),
            (
                {
                    "config.json": {"model_type": "vit", "id2label": {"1": "a", "2": "b"}},
                    "preprocessor_config.json": PROCESSOR,
                },
                "number the classes from 0",
            ),
            (
                {
                    "config.json": {"model_type": "vit"},
                    "preprocessor_config.json": {**PROCESSOR, "resample": 1},
                },
                "neither bilinear",
            ),
            ({"config.json": timm_config(architecture="../../x")}, "no name of a network"),
            *(
                ({"config.json": timm_config(pretrained_cfg={**INPUT, "input_size": size})}, "size")
                for size in ("48", 48, [48], [1, 48, 48], [3, 48])
            ),
            *(
                (
                    {
                        "config.json": {"model_type": "vit"},
                        "preprocessor_config.json": {**PROCESSOR, **changes},
                    },
                    words,
                )
                for changes, words in (
                    ({"size": 0}, "no pixels"),
                    ({"size": float("inf")}, "infinity"),
                    ({"size": 48, "rescale_factor": 0}, "leaves nothing"),
                    ({"size": 48, "rescale_factor": float("nan")}, "leaves nothing"),
                )
            ),
        ],
    )
    def test_impossible(self, folder, files, words):
        with pytest.raises(ConfigError, match=words) as caught:
            load_model(TINY, checkpoint=str(folder(files)))
        assert str(caught.value).count(".json is no model card") == 1

    @pytest.mark.parametrize("value", [float("inf"), "many", [48, 48]])
    @pytest.mark.parametrize("field", ["input_size", "mean", "crop_pct"])
    def test_impossible_fields(self, folder, field, value):
        files = {"config.json": timm_config(pretrained_cfg={**INPUT, field: value})}
        with pytest.raises(ConfigError, match=r"config\.json is no model card"):
            load_model(checkpoint=str(folder(files)))

    def test_a_word_that_the_library_does_not_know(self, folder):
        files = {"config.json": timm_config(model_args={"act_layer": "nonsense"})}
        with pytest.raises(ConfigError, match=r"cannot be built with .*nonsense"):
            load_model(checkpoint=str(folder(files)))


FORBIDDEN = {
    "checkpoint_path": "/etc/passwd",
    "pretrained": True,
    "pretrained_cfg": {"file": "x.pth"},
    "pretrained_cfg_overlay": {"url": "https://example.com/x.pth"},
    "pretrained_strict": False,
    "cache_dir": "/tmp",
    "weights": "IMAGENET1K_V1",
    "scriptable": True,
    "exportable": True,
    "features_only": True,
    "progress": True,
    "file": "x",
    "url": "x",
    "hf_hub_id": "x/y",
    "norm_layer": "os.system",
    "act_layer": "../x",
    "global_pool": "https://example.com",
    "block_args": {"a": 1},
    "img_size": {"a": 1},
}


class TestArguments:
    @pytest.mark.parametrize("name", FORBIDDEN)
    def test_none_names_files_or_code(self, folder, name):
        files = {"config.json": timm_config(model_args={name: FORBIDDEN[name]})}
        with pytest.raises(ConfigError, match=name):
            load_model(checkpoint=str(folder(files)))

    def test_the_list_has_nothing_of_the_kind(self):
        suspicious = ("_path", "file", "url", "pretrained", "checkpoint", "cfg", "dir", "hub")
        assert not [
            name for name in ALLOWED for word in suspicious if word in name and "drop" not in name
        ]

    def test_harmless_ones_reach_the_network(self, folder):
        path = folder({"config.json": timm_config(model_args={"drop_rate": 0.25})})
        assert load_model(str(path)).model.drop_rate == 0.25


class TestFolderOrName:
    def test_a_network_goes_before_a_folder_of_its_name(self, folder, monkeypatch):
        path = folder(LAYOUTS["fkd"])
        path.rename(path.parent / TINY)
        monkeypatch.chdir(path.parent)
        assert load_model(TINY, num_classes=5).class_names is None
        assert load_model(f"./{TINY}").class_names == NAMES

    def test_a_missing_folder_is_called_one(self):
        for name in ("runs/mine", "./mine", "/no/where", "~/runs/mine"):
            with pytest.raises(ConfigError, match="there is no such folder either"):
                load_model(name)

    @pytest.mark.parametrize("name", ["{}/model.safetensors", "{}/config.json", "best.pth"])
    def test_a_file_is_called_one(self, folder, name, monkeypatch):
        path = folder(LAYOUTS["fkd"])
        (path / "best.pth").write_bytes(b"")
        monkeypatch.chdir(path)
        with pytest.raises(ConfigError, match="it is a file: give its folder if a run wrote it"):
            load_model(name.format(path))

    def test_not_both(self, folder):
        path = str(folder(LAYOUTS["fkd"]))
        with pytest.raises(ConfigError, match="is a model folder; give it alone"):
            load_model(path, checkpoint=path)


class TestOverrides:
    CHANGES = (
        ("mean", (0.5, 0.25, 0.125)),
        ("std", (0.5, 0.25, 0.125)),
        ("interpolation", "bicubic"),
        ("input_size", 64),
    )

    @pytest.mark.parametrize(("name", "value"), CHANGES)
    def test_changes_the_teacher_and_its_identity(self, folder, name, value):
        path = str(folder(LAYOUTS["timm"]))
        plain = load_teachers([TeacherConfig(path)])
        changed = load_teachers([TeacherConfig(path, **{name: value})])
        assert getattr(changed.teachers[0].preprocessing, name) == value
        before, after = plain.identity()[0], changed.identity()[0]
        assert {key for key in before if before[key] != after[key]} == {name}

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(("mean", (124.0, 116.0, 104.0)), ("mean", (0.5,)), ("std", (0, 1, 1))),
            *(("std", (58.0, 57.0, 57.0)), ("mean", (float("nan"),) * 3)),
        ],
    )
    def test_impossible(self, name, value):
        with pytest.raises(ConfigError, match=rf"teacher\.{name} must be three numbers"):
            TeacherConfig("resnet18", **{name: value})
