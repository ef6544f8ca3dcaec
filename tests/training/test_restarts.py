"""The same folder again: the same run, a fresh start, or a refusal that touches nothing."""

import builtins
import errno
import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fkd.data.sources import ImagesConfig, open_source
from fkd.engine.checkpoint import Checkpoints
from fkd.engine.logging import Progress
from fkd.engine.optim import OptimizerConfig
from fkd.engine.state import TrainableModule
from fkd.errors import RunError
from fkd.training.config import StudentConfig
from fkd.training.run import train

WILD = OptimizerConfig(lr=1e30)


def content(path) -> dict[str, bytes]:
    files = [p for p in Path(path).rglob("*") if p.is_file()]
    return {str(p.relative_to(path)): p.read_bytes() for p in files}


@pytest.fixture
def stored_run(plain_run, label_store):
    return replace(plain_run, method="fkd", store=str(label_store.path), crops_per_image=2)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    "changed", ["store", "images", "contents", "val", "val contents", "settings", "student"]
)
def test_a_run_with_other_data_or_settings_is_refused_also_when_it_is_finished(
    stored_run, changed, finished, make_images, make_store, image_source, tmp_path
):
    more = make_images(tmp_path / "more", per_class=6)
    same_names = make_images(tmp_path / "same-names", per_class=5, seed=1)
    config = replace(stored_run, val=stored_run.images)
    if changed in ("images", "contents"):
        config = replace(config, method="vanilla", store=None, crops_per_image=1)
    train(config)
    if not finished:
        (Path(config.out) / "model.safetensors").unlink()
    before = content(config.out)
    other = {
        "store": {"store": str(make_store(tmp_path / "other", image_source, num_crops=5).path)},
        "images": {"images": ImagesConfig(root=str(more))},
        "contents": {"images": ImagesConfig(root=str(same_names))},
        "val": {"val": ImagesConfig(root=str(more))},
        "val contents": {"val": ImagesConfig(root=str(same_names))},
        "settings": {"seed": 1},
        "student": {"student": StudentConfig(name="test_resnet", input_size=32)},
    }[changed]
    with pytest.raises(RunError, match=r"was started with other settings: .* was .*, now "):
        train(replace(config, **other))
    assert content(config.out) == before


@pytest.mark.parametrize("given_first", [True, False])
def test_a_group_of_settings_that_only_one_start_has_is_named_once(plain_run, given_first):
    """Validation images here; not a line for each of their settings, most of them defaults."""
    other = replace(plain_run, val=plain_run.images)
    first, second = (other, plain_run) if given_first else (plain_run, other)
    train(first)
    values = ("given", "None") if given_first else ("None", "given")
    expected = "other settings: val was {}, now {}; use those".format(*values)
    with pytest.raises(RunError, match=expected):
        train(second)


def test_a_finished_run_of_the_same_data_elsewhere_is_finished(stored_run, image_folder, tmp_path):
    train(stored_run)
    moved = shutil.copytree(image_folder, tmp_path / "moved")
    assert train(replace(stored_run, images=ImagesConfig(root=str(moved)))).already_finished


def break_forward(monkeypatch):
    def forward(self, images, targets):
        raise RuntimeError("input size does not fit")

    monkeypatch.setattr(TrainableModule, "forward", forward)


@pytest.mark.parametrize("failure", ["nan", "forward", "setup"])
def test_corrected_settings_start_afresh_where_nothing_was_learned(
    plain_run, failure, require_same_outcome
):
    """The same --out: there is no checkpoint that other settings could spoil."""
    reference = replace(plain_run, out=plain_run.out + "-reference")
    train(reference)
    wrong = replace(plain_run, seed=3, optimizer=WILD)
    with pytest.MonkeyPatch.context() as patch:
        if failure == "forward":
            break_forward(patch)
        with pytest.raises((RunError, RuntimeError)):
            train(replace(wrong, checkpoint_seconds=1000))
    if failure == "setup":
        (Path(plain_run.out) / "metrics.jsonl").unlink()
    train(plain_run)
    require_same_outcome(plain_run, reference)
    written = yaml.safe_load((Path(plain_run.out) / "config.yaml").read_text())
    assert (written["seed"], written["optimizer"]["lr"]) == (
        0,
        pytest.approx(0.1 * (8 / 1024) ** 0.5),
    )


def test_with_a_checkpoint_other_settings_are_refused(plain_run):
    train(plain_run)
    (Path(plain_run.out) / "model.safetensors").unlink()
    with pytest.raises(RunError, match="seed was 0, now 3"):
        train(replace(plain_run, seed=3))


@pytest.mark.parametrize(
    "files",
    [
        ["thesis.tex"],
        ["config.yaml", "thesis.tex"],
        ["env.json", "model.safetensors"],
        ["config.json", "commits/00000.json"],
        ["lock", "ant/0.png"],
        ["checkpoints/step-00000001.pt"],
    ],
)
def test_nothing_is_written_into_a_folder_of_something_else(plain_run, files):
    for name in files:
        path = Path(plain_run.out) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    before = content(plain_run.out)
    with pytest.raises(RunError, match="is not empty and not the folder of a run"):
        train(plain_run)
    assert content(plain_run.out) == before


def test_a_file_in_the_place_of_the_folder_is_refused(plain_run):
    Path(plain_run.out).write_text("a file")
    with pytest.raises(RunError, match="run cannot be read: not a directory"):
        train(plain_run)


def test_what_a_run_of_defaults_used_is_written_and_resumed(plain_run):
    """Defaults that follow from the data are settings like any other."""
    config = replace(plain_run, batch_size=None, crops_per_image=None)
    train(config)
    written = yaml.safe_load((Path(config.out) / "config.yaml").read_text())
    assert (written["batch_size"], written["crops_per_image"]) == (32, 1)
    assert written["optimizer"]["lr"] == pytest.approx(0.1 * (32 / 1024) ** 0.5)
    assert train(config).already_finished
    assert train(replace(config, batch_size=32)).already_finished
    assert len(open_source(config.images)) == 15


class Stop(Exception):
    """Ends a run like a kill."""


class Watch(Progress):
    """Ends a run after 3 steps, if asked to; remembers where it began and what it was told."""

    def __init__(self, stops=False):
        self.stops, self.began, self.warnings = stops, None, []

    def begin(self, step, num_steps, description):
        self.began = step

    def warn(self, text):
        self.warnings.append(text)

    def advance(self, step, metrics):
        if self.stops and step == 3:
            raise Stop


@pytest.fixture
def stopped_run(plain_run):
    """With checkpoints after steps 1 and 2."""
    with pytest.raises(Stop):
        train(plain_run, Watch(stops=True))
    return plain_run


def refuse_to_open(patch, name):
    real = builtins.open

    def refuse(path, *args, **kwargs):
        if Path(str(path)).name == name:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path, *args, **kwargs)

    patch.setattr(builtins, "open", refuse)
    patch.setattr(io, "open", refuse)


@pytest.mark.parametrize("kind", ["pt", "json"])
def test_a_checkpoint_that_cannot_be_read_ends_the_run_and_is_kept(
    stopped_run, kind, require_same_outcome
):
    before = content(stopped_run.out)
    older = Path(stopped_run.out) / "checkpoints" / "step-00000001.pt"
    watch = Watch()
    with pytest.MonkeyPatch.context() as patch:
        refuse_to_open(patch, f"step-00000002.{kind}")
        with pytest.raises(RunError, match=f"step-00000002.pt, .*--resume_from {older}$"):
            train(stopped_run)
    assert content(stopped_run.out) == before
    with pytest.MonkeyPatch.context() as patch:
        refuse_to_open(patch, f"step-00000002.{kind}")
        train(replace(stopped_run, resume_from=str(older)), watch)
    assert watch.began == 1
    assert "passed over as asked" in watch.warnings[0]
    reference = replace(stopped_run, out=stopped_run.out + "-reference")
    train(reference)
    require_same_outcome(stopped_run, reference)


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(stopped_run):
    path = Path(stopped_run.out) / "checkpoints" / "step-00000002.pt"
    path.write_bytes(path.read_bytes()[:-1])
    watch = Watch()
    train(stopped_run, watch)
    assert watch.began == 1
    assert watch.warnings[0].startswith(f"{path} is damaged")


@pytest.mark.parametrize("change", ["missing", "shape", "kind"])
def test_a_checkpoint_of_another_version_is_refused(stopped_run, change):
    """Whole, of the same settings, but not what this code expects."""
    folder = Path(stopped_run.out) / "checkpoints"
    settings = json.loads((folder / "step-00000002.json").read_text())["settings"]
    checkpoints = Checkpoints(folder, settings)
    state = checkpoints.load_newest()
    if change == "missing":
        del state["optimizer"]
    elif change == "shape":
        name = next(iter(state["student"]))
        state["student"][name] = state["student"][name].flatten()[:1]
    else:
        state["optimizer"] = "adamw"
    checkpoints.save(3, state)
    with pytest.raises(RunError, match="does not fit the student or this version of fkd") as caught:
        train(stopped_run)
    assert "\n" not in str(caught.value)
