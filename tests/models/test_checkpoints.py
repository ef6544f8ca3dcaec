"""Checkpoints are read without running code; what is not weights is refused in one sentence."""

import argparse
import json
import os
import pickle
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from fkd.errors import ConfigError
from fkd.models.cards import ModelCard
from fkd.models.checkpoints import load_checkpoint, weights_sha256
from fkd.models.preprocessing import Preprocessing
from fkd.models.timm_config import describe_network

STATE = OrderedDict(w=torch.arange(6.0).reshape(2, 3), b=torch.tensor([1, 2]))
CARD = ModelCard(
    "test_resnet",
    2,
    Preprocessing(
        input_size=32,
        interpolation="bilinear",
        mean=(0.1, 0.2, 0.3),
        std=(1.0, 1.0, 0.5),
        crop_pct=0.9,
    ),
    {"drop_rate": 0.1},
)


def assert_state(path):
    state = load_checkpoint(path).state
    assert sorted(state) == ["b", "w"]
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)


class TestWeights:
    @pytest.mark.parametrize("suffix", ["pth", "pt", "tar", "bin"])
    def test_state_dict(self, tmp_path, suffix):
        torch.save(STATE, tmp_path / f"x.{suffix}")
        assert_state(tmp_path / f"x.{suffix}")

    def test_safetensors(self, tmp_path):
        save_file(STATE, tmp_path / "x.safetensors")
        assert_state(tmp_path / "x.safetensors")

    @pytest.mark.parametrize("key", ["state_dict", "model", "state_dict_ema"])
    def test_weights_beside_other_things(self, tmp_path, key):
        torch.save({key: STATE, "epoch": 3, "args": argparse.Namespace(lr=1)}, tmp_path / "x.pth")
        assert_state(tmp_path / "x.pth")

    def test_averaged_weights_go_before_the_others(self, tmp_path):
        raw = {name: value + 1 for name, value in STATE.items()}
        torch.save({"state_dict": raw, "state_dict_ema": STATE}, tmp_path / "x.pth")
        assert_state(tmp_path / "x.pth")

    @pytest.mark.parametrize(
        "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
    )
    def test_wrappers_are_undone(self, tmp_path, prefix):
        torch.save({prefix + name: value for name, value in STATE.items()}, tmp_path / "x.pth")
        assert_state(tmp_path / "x.pth")

    def test_code_in_a_file_is_not_run(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "owned"),)

        torch.save({"state_dict": STATE, "extra": Evil()}, tmp_path / "x.pth")
        (tmp_path / "plain.pth").write_bytes(pickle.dumps(Evil()))
        for name in ("x.pth", "plain.pth"):
            with pytest.raises(ConfigError, match=rf"{name} cannot be read without running code"):
                load_checkpoint(tmp_path / name)
        assert not (tmp_path / "owned").exists()

    @pytest.mark.parametrize("data", [b"", b"\0" * 100, b"<html>", b"PK\x03\x04" + b"\0" * 50])
    def test_damaged_files(self, tmp_path, data):
        for name in ("x.pth", "x.safetensors"):
            (tmp_path / name).write_bytes(data)
            with pytest.raises(ConfigError, match=f"checkpoint: .*{name} ") as caught:
                load_checkpoint(tmp_path / name)
            assert "\n" not in str(caught.value)

    def test_truncated_files(self, tmp_path):
        torch.save(STATE, tmp_path / "x.pth")
        save_file(STATE, tmp_path / "x.safetensors")
        for file in (tmp_path / "x.pth", tmp_path / "x.safetensors"):
            file.write_bytes(file.read_bytes()[:-10])
            with pytest.raises(ConfigError):
                load_checkpoint(file)

    @pytest.mark.parametrize("document", [{}, [STATE], {"epoch": 3}, {**STATE, "epoch": 3}, 7])
    def test_something_else_than_weights(self, tmp_path, document):
        torch.save(document, tmp_path / "x.pth")
        with pytest.raises(ConfigError, match=r"x\.pth holds .*save a model's state_dict"):
            load_checkpoint(tmp_path / "x.pth")

    def test_missing(self, tmp_path):
        with pytest.raises(ConfigError, match="does not exist; give a file or a run folder"):
            load_checkpoint(tmp_path / "x.pth")


def write_folder(folder, config=None):
    folder.mkdir(exist_ok=True)
    save_file(STATE, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def config_of(card=CARD, classes=("cat", "dog")):
    """What a run writes of a network, through JSON."""
    return json.loads(json.dumps(describe_network(torch.nn.Identity(), card, classes)))


class TestModelFolder:
    @pytest.mark.parametrize(
        "card",
        [
            CARD,
            replace(CARD, name="torchvision/resnet18", kwargs={}),
            replace(CARD, name="sret_t", kwargs={"img_size": 32}),
            replace(CARD, license="apache-2.0"),
            replace(CARD, preprocessing=CARD.preprocessing.changed(input_size=65)),
        ],
        ids=lambda card: card.name,
    )
    def test_brings_its_card_and_classes(self, tmp_path, card):
        fields = {**config_of(card), "added_later": 1}
        found = load_checkpoint(write_folder(tmp_path / "run", fields))
        assert found.card == card
        assert found.class_names == ["cat", "dog"]
        assert sorted(found.state) == ["b", "w"]

    def test_the_tag_of_the_weights_that_it_started_from_is_dropped(self, tmp_path):
        card = replace(CARD, name="resnet18.a1_in1k")
        found = load_checkpoint(write_folder(tmp_path / "run", config_of(card)))
        assert found.card == replace(card, name="resnet18")

    def test_embeddings_have_no_names(self, tmp_path):
        card = replace(CARD, num_classes=0)
        found = load_checkpoint(write_folder(tmp_path / "run", config_of(card, [])))
        assert (found.card, found.class_names) == (card, None)

    def test_the_card_may_be_missing(self, tmp_path):
        found = load_checkpoint(write_folder(tmp_path / "run"))
        assert (found.card, found.class_names) == (None, None)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"architecture": None}, "neither timm's"),
            ({"num_classes": "2"}, "no usable num_classes"),
            ({"num_classes": 3}, "names 2 classes, but the model has 3"),
            ({"label_names": ["cat", "cat"]}, "two classes called 'cat'"),
            ({"model_args": [1]}, "no usable kwargs"),
            ({"pretrained_cfg": {"mean": [1]}}, "mean must be three numbers"),
        ],
    )
    def test_bad_card(self, tmp_path, change, words):
        folder = write_folder(tmp_path / "run", {**config_of(), **change})
        with pytest.raises(ConfigError, match=rf"config\.json is no model card \(.*{words}"):
            load_checkpoint(folder)

    def test_card_that_is_not_json(self, tmp_path):
        (write_folder(tmp_path / "run") / "config.json").write_text("{")
        with pytest.raises(ConfigError, match="is no model card"):
            load_checkpoint(tmp_path / "run")

    def test_folder_without_weights(self, tmp_path):
        with pytest.raises(ConfigError, match=r"has no model\.safetensors; give a finished run"):
            load_checkpoint(tmp_path)


class TestDigest:
    def test_sees_every_change_but_not_the_order(self):
        digest = weights_sha256(STATE)
        assert weights_sha256(dict(reversed(STATE.items()))) == digest
        flipped = {**STATE, "w": STATE["w"].clone()}
        flipped["w"][1, 2] = -flipped["w"][1, 2]
        changes = [
            flipped,
            {**STATE, "b": STATE["b"].to(torch.int32)},
            {**STATE, "w": STATE["w"].reshape(3, 2)},
            {"w": STATE["w"], "c": STATE["b"]},
            {"w": STATE["w"]},
        ]
        assert len({digest, *map(weights_sha256, changes)}) == 1 + len(changes)

    def test_does_not_depend_on_memory_layout(self):
        weight = torch.randn(4, 3, 2, 2)
        spread = weight.to(memory_format=torch.channels_last)
        assert weights_sha256({"w": weight}) == weights_sha256({"w": spread})

    def test_scalars_halves_and_empty_tensors(self):
        state = {
            "n": torch.tensor(3),
            "h": torch.ones(2, dtype=torch.bfloat16),
            "e": torch.empty(0),
        }
        assert len(weights_sha256(state)) == 64
