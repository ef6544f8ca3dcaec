"""Where a step goes: sums, turns, real runs of all methods, and what is refused."""

import json
from dataclasses import replace

import pytest
import safetensors.torch
import timm
import torch

from fkd.analysis import step_time, timed_runs
from fkd.analysis.random_labels import read_sample, write_random_labels, write_random_maps
from fkd.analysis.stages import LOADER_STAGES, STEP_STAGES
from fkd.analysis.step_time import REST, measure_time, summarize, take_turns
from fkd.analysis.time_config import TimeConfig, TimeProgress
from fkd.analysis.time_figure import SHOWN, draw_time
from fkd.analysis.timed_runs import Turn
from fkd.analysis.timed_setup import open_runs
from fkd.data.sources import ImagesConfig
from fkd.errors import ConfigError, RunError
from fkd.models.teacher import TeacherConfig
from fkd.store import verify_store
from fkd.training.config import StudentConfig


class Notes(TimeProgress):
    """Keeps what it is told."""

    def __init__(self):
        self.remarks, self.warnings, self.turns, self.done = [], [], 0, 0

    def remark(self, text):
        self.remarks.append(text)

    def warn(self, text):
        self.warnings.append(text)

    def started(self, num_turns):
        self.turns = num_turns

    def advanced(self):
        self.done += 1


class FakeRun:
    """A run whose turns take what they are told; names what it is asked for."""

    method, num_workers = "fkd", 2

    def __init__(self, crops_per_image, asked):
        self.crops_per_image, self.asked = crops_per_image, asked

    def take_turn(self, num_workers, steps, *, observed):
        self.asked.append((self.crops_per_image, num_workers, observed))
        return Turn(steps, 8 * steps, 1.0, {"loss": 0.5} if observed else {}, {})


@pytest.fixture
def config(image_folder) -> TimeConfig:
    return TimeConfig(
        images=ImagesConfig(root=str(image_folder)),
        student=StudentConfig(name="test_resnet", input_size=32),
        batch_size=4,
        steps=1,
        repeats=1,
        crops_per_image=(1, 2),
        num_workers=0,
        device="cpu",
    )


@pytest.fixture
def teacher(tmp_path) -> TeacherConfig:
    weights = tmp_path / "teacher.safetensors"
    torch.manual_seed(0)
    safetensors.torch.save_file(timm.create_model("test_resnet").state_dict(), weights)
    return TeacherConfig("test_resnet", checkpoint=str(weights), input_size=48)


def turns(*seconds, parts=None, crops=8):
    return [Turn(2, crops, time, dict(parts or {}), {}) for time in seconds]


def test_medians_are_of_a_step():
    """Turns of two steps with eight crops: a step has four."""
    observed = [
        *turns(4.0, parts={"read": 1.0, "loss": 2.0}),
        *turns(4.4, parts={"read": 1.2, "loss": 3.0}),
        *turns(9.0, parts={"read": 5.0, "loss": 2.2}),
    ]
    row = summarize(FakeRun(2, []), 0, 100, turns(4.0, 4.0, 5.0), observed)
    assert (row.crops_per_step, row.step, row.observed_step) == (4.0, 2.0, 2.2)
    shares = {"read": 1.2 / 4.4, "loss": 2.0 / 4.0, REST: 1.8 / 9.0}
    assert row.parts == pytest.approx({name: 2.2 * share for name, share in shares.items()})
    assert row.spread == pytest.approx(0.5 / 4.0)
    assert row.observed_over_plain == pytest.approx(1.1)
    assert row.explained == pytest.approx(0.8)
    assert row.crops_per_second == 2.0
    assert row.images_per_second == 1.0
    assert row.seconds_per_epoch == 50.0
    assert row.numbers()["repeats"] == 3
    assert [turn["seconds"] for turn in row.numbers()["observed_turns"]] == [4.0, 4.4, 9.0]


def test_labels_count_in_whichever_thread_they_are_read():
    observed = [Turn(1, 4, 10.0, {"label_preparation": 1.0}, {"label_read": 0.5, "crop": 3.0})]
    row = summarize(FakeRun(1, []), 2, 100, turns(10.0, crops=8), observed)
    assert row.label_share("label_read") == pytest.approx(0.05)
    assert row.label_share("label_read", "label_preparation") == pytest.approx(0.15)


def test_everyone_has_the_same_number_of_turns_and_begins_once(config):
    asked, notes = [], Notes()
    runs = [FakeRun(m, asked) for m in (1, 2)]
    found = take_turns(replace(config, repeats=4), runs, notes)
    assert {len(of_one) for both in found.values() for of_one in both} == {4}
    assert all(not turn.parts for plain, _ in found.values() for turn in plain)
    sides = [(m, workers) for workers in (0, 2) for m in (1, 2)]
    assert [asked[8 * repeat][:2] for repeat in range(4)] == sides
    assert [asked[8 * repeat][2] for repeat in range(4)] == [False, True, False, True]
    assert (notes.turns, notes.done) == (32, 32)


@pytest.fixture(scope="module")
def report_of_all(image_folder, tmp_path_factory):
    """A real run of every method, with both kinds of loader."""
    weights = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    safetensors.torch.save_file(timm.create_model("test_resnet").state_dict(), weights)
    notes = Notes()
    report = measure_time(
        TimeConfig(
            images=ImagesConfig(root=str(image_folder)),
            student=StudentConfig(name="test_resnet", input_size=32),
            teacher=TeacherConfig("test_resnet", checkpoint=str(weights), input_size=48),
            batch_size=4,
            steps=1,
            repeats=2,
            crops_per_image=(1, 2),
            num_workers=1,
            device="cpu",
        ),
        notes,
    )
    return report, notes


def test_all_methods_are_timed(report_of_all):
    report, notes = report_of_all
    names = ["vanilla", "kd", "relabel", "fkd m=1", "fkd m=2"]
    assert [row.name for row in report.inline] == names
    assert [row.name for row in report.with_workers] == names
    assert {row.crops_per_step for row in report.rows} <= {3.0, 3.5, 4.0}  # 12 of 15 images
    assert notes.done == notes.turns == 2 * 2 * 5 * 2
    assert report.num_images == 15
    assert json.loads(json.dumps(report.numbers()))["rows"][0]["method"] == "vanilla"


def test_an_inline_step_is_the_sum_of_its_stages(report_of_all):
    """Of each turn exactly; medians of two turns are means."""
    for row in report_of_all[0].inline:
        assert sum(row.parts.values()) == pytest.approx(row.observed_step, rel=1e-6)
        assert not row.beside
        assert row.parts["wait"] < 0.1 * row.observed_step
        assert min(row.parts.values()) >= 0


def test_each_method_has_its_stages(report_of_all):
    labels, teacher = {"label_read"}, {"teacher"}
    every = {*LOADER_STAGES, *STEP_STAGES, REST} - labels - teacher
    extra = {"vanilla": set(), "kd": teacher}
    for row in report_of_all[0].inline:
        assert set(row.parts) == every | extra.get(row.method, labels)
        assert set(row.parts) <= set(SHOWN)
    for row in report_of_all[0].with_workers:
        stored = labels | {"label_preparation"}
        assert (
            set(row.beside) == {"read", "decode", "crop"} | extra.get(row.method, stored) - teacher
        )
        assert not {*row.parts} & ({"read", "decode", "crop"} | labels)


def test_every_stage_is_drawn_at_its_length(report_of_all):
    report, _ = report_of_all
    upper, lower = draw_time(report).axes
    for axes, rows in ((upper, report.inline), (lower, report.with_workers)):
        assert [text.get_text() for text in axes.get_yticklabels()] == [row.name for row in rows]
        drawn = sum(bar.get_width() for bars in axes.containers for bar in bars)
        times = [t for row in rows for t in (*row.parts.values(), *row.beside.values())]
        per_crop = [t / row.crops_per_step for row in rows for t in row.parts.values()]
        per_crop += [t / row.crops_per_step for row in rows for t in row.beside.values()]
        assert len(times) == len(per_crop)
        assert drawn == pytest.approx(1e3 * sum(per_crop))


def test_watching_changes_nothing(config, tmp_path):
    """Weights after observed and after plain steps are the same to the bit."""
    weights = []
    for observed in (False, True):
        (run,), _ = open_runs(
            replace(config, methods=("fkd",), crops_per_image=(2,)),
            tmp_path / str(observed),
            Notes(),
        )
        for _ in range(2):
            run.take_turn(0, 1, observed=observed)
        weights.append(run._state.module.student.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_stages_wait_for_a_gpu_and_plain_steps_do_not(config, tmp_path, monkeypatch):
    """Otherwise the time of a stage would be that of handing its work over."""
    (run,), _ = open_runs(
        replace(config, methods=("vanilla",), crops_per_image=None), tmp_path, Notes()
    )
    waits = []
    monkeypatch.setattr(timed_runs, "_synchronize", waits.append)
    monkeypatch.setattr(timed_runs.TimedRun, "device", torch.device("cuda"))
    run.take_turn(0, 3, observed=False)
    assert waits == [torch.device("cuda")] * 2  # before and after all three steps
    run.take_turn(0, 3, observed=True)
    assert len(waits) > 2 + 2 + 3 * 2 * len(STEP_STAGES[4:])


def test_given_stores_are_measured(config, label_store, map_store):
    given = replace(
        config,
        store=str(label_store.path),
        maps=str(map_store.path),
        methods=("relabel", "fkd"),
        crops_per_image=None,
        num_images=1_000_000,
    )
    notes = Notes()
    report = measure_time(given, notes)
    assert [row.name for row in report.rows] == ["relabel", "fkd m=1", "fkd m=2", "fkd m=4"]
    assert not notes.remarks
    assert report.rows[0].num_images == 1_000_000


def test_what_there_is_nothing_for_is_left_out(config, tmp_path, image_folder):
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, image in enumerate(sorted(image_folder.glob("*/*.png"))):
        (flat / f"{i}.png").write_bytes(image.read_bytes())
    (flat / "0.png").write_bytes(b"no image")
    notes = Notes()
    runs, num_images = open_runs(
        replace(config, images=ImagesConfig(root=str(flat))), tmp_path / "stores", notes
    )
    assert [run.method for run in runs] == ["relabel", "fkd", "fkd"]
    assert num_images == 15
    assert notes.remarks[0] == "kd is left out: it needs --teacher.name"
    assert notes.remarks[1].startswith("vanilla is left out: it needs classes")
    assert notes.warnings == ["1 of 12 images are unreadable and left out"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ("vanila",)}, "vanila cannot be timed; choose from vanilla, kd"),
        ({"methods": ()}, "none cannot be timed"),
        ({"methods": ("kd",), "crops_per_image": None}, "method kd needs one"),
        ({"methods": ("vanilla",)}, "crops_per_image: only fkd uses it"),
        ({"methods": ("fkd",), "maps": "maps"}, "maps: only relabel uses it"),
        ({"crops_per_image": (0,)}, "crops_per_image must be at least 1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"repeats": 0}, "repeats must be at least 1"),
        ({"num_workers": -1}, "num_workers must be at least 0"),
    ],
)
def test_settings_that_cannot_be(config, settings, message):
    with pytest.raises(ConfigError, match=message):
        replace(config, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 16}, "batch_size: 16 crops of different images need as many, and there"),
        ({"store": "labels", "crops_per_image": (7,)}, "the store has 6 crops per image, asked"),
        ({"store": "maps"}, "holds label maps and no crops|holds label maps"),
        ({"maps": "labels"}, "holds crops and no label maps"),
        ({"device": "abacus"}, "device"),
    ],
)
def test_what_does_not_fit_is_told(config, settings, message, label_store, map_store, tmp_path):
    stores = {"labels": str(label_store.path), "maps": str(map_store.path)}
    settings = {name: stores.get(v, v) if isinstance(v, str) else v for name, v in settings.items()}
    with pytest.raises(ConfigError, match=message):
        open_runs(replace(config, **settings), tmp_path, Notes())


def test_too_little_memory_is_told_in_one_sentence(config, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(step_time, "take_turns", full)
    with pytest.raises(RunError, match="too little memory"):
        measure_time(replace(config, methods=("fkd",)))


def test_a_busy_machine_is_told(config, monkeypatch):
    monkeypatch.setattr(step_time, "_load_average", lambda: 1000.0)
    notes = Notes()
    measure_time(replace(config, methods=("fkd",), crops_per_image=(1,)), notes)
    assert "a load average of 1000.0" in notes.warnings[0]


def test_made_up_stores_are_whole(image_source, tmp_path):
    sample = read_sample(image_source, 7)
    names = [f"class{i}" for i in range(9)]
    labels = write_random_labels(tmp_path / "labels", sample, names, 11)
    maps = write_random_maps(tmp_path / "maps", sample, names)
    assert (len(labels), labels.num_crops, labels.codec.name) == (7, 11, "ms:5")
    assert (len(maps), maps.grid, maps.codec.name) == (7, (15, 15), "top:5")
    assert not [*verify_store(labels.path), *verify_store(maps.path)]


def test_few_classes_are_all_kept(image_source, tmp_path):
    labels = write_random_labels(tmp_path / "a", read_sample(image_source, 3), ["ant", "bee"], 4)
    assert labels.codec.name == "ms:2"


@pytest.mark.parametrize("workers", ["threads", "processes"])
def test_workers_tell_what_they_did(config, workers, tmp_path):
    settings = {"methods": ("fkd",), "crops_per_image": (2,), "num_workers": 2, "workers": workers}
    (run,), _ = open_runs(replace(config, **settings), tmp_path, Notes())
    turn = run.take_turn(2, 3, observed=True)
    assert turn.steps == 4  # whole rounds of two workers
    assert set(turn.beside) == set(LOADER_STAGES)
    assert not set(turn.parts) & {"read", "decode", "crop", "label_read"}
    assert not run.take_turn(2, 1, observed=False).beside
