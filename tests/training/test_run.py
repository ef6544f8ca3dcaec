"""Whole runs of a tiny student: they end, resume exactly, and refuse what cannot work."""

import json
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file

from fkd.crops.augment import NO_AUGMENT, AugmentConfig
from fkd.crops.sampling import CropConfig
from fkd.data.mixing import MixingConfig
from fkd.data.sources import ImagesConfig, open_source
from fkd.engine.logging import Progress, read_metrics
from fkd.engine.optim import OptimizerConfig
from fkd.engine.run_folder import open_run_folder
from fkd.engine.schedule import ScheduleConfig
from fkd.errors import ConfigError, CropMismatch, RunError, StoreMismatch
from fkd.methods import MealV2Config
from fkd.models.teacher import TeacherConfig, load_teachers
from fkd.training.config import StudentConfig, TrainConfig
from fkd.training.run import train
from tests.training.processes import (
    Stop,
    StopAt,
    exit_codes,
    start,
    start_together,
    train_together,
)

ALIVE = {"method": "mealv2-fkd", "seed": 7}
"""Of the discriminators for so few classes many have no gradient from the start: dead ReLUs."""
TIMES = ("seconds", "crops_per_second")
STRONG = AugmentConfig(color_jitter=(0.4, 0.4, 0.4, 0.0))


@pytest.fixture
def config(tmp_path, image_folder, label_store) -> TrainConfig:
    """6 epochs of 15 images with everything switched on that resuming could get wrong."""
    return TrainConfig(
        out=str(tmp_path / "run"),
        images=ImagesConfig(root=str(image_folder)),
        val=ImagesConfig(root=str(image_folder)),
        store=str(label_store.path),
        student=StudentConfig(name="test_vit", input_size=32, drop_rate=0.2, drop_path_rate=0.2),
        crops_per_image=2,
        epochs=6,
        batch_size=8,
        optimizer=OptimizerConfig(name="adamw"),
        schedule=ScheduleConfig(warmup_epochs=1, per_step=True),
        mixing=MixingConfig(mixup_alpha=0.8, cutmix_alpha=1.0, prob=0.5),
        student_augment=STRONG,
        ema_decay=0.9,
        clip_grad=1.0,
        num_workers=0,
        log_every=3,
        device="cpu",
    )


def weights_of(config) -> dict[str, torch.Tensor]:
    return load_file(Path(config.out) / "model.safetensors")


def lines_of(config) -> list[dict]:
    lines = read_metrics(Path(config.out) / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def assert_same_run(config, reference):
    assert lines_of(config) == lines_of(reference)
    expected = weights_of(reference)
    assert all(torch.equal(value, expected[name]) for name, value in weights_of(config).items())


def test_a_run_leaves_what_its_reader_needs(config):
    result = train(config)
    out = Path(config.out)
    assert result.num_steps == 4 * 2 + 4 == lines_of(config)[-1]["step"]
    assert (result.val_top1, result.val_top5) == (lines_of(config)[-1]["val_top1"], 100.0)
    described = json.loads((out / "config.json").read_text())
    assert described["label_names"] == ["ant", "bee", "cat", "dog"]
    assert (described["architecture"], described["num_classes"]) == ("test_vit", 4)
    assert described["pretrained_cfg"]["input_size"] == [3, 32, 32]
    environment = json.loads((out / "env.json").read_text())
    assert environment["seed"] == 0
    assert len(environment["data"]["store_root_hash"]) == 64
    assert yaml.safe_load((out / "config.yaml").read_text())["optimizer"]["name"] == "adamw"
    assert list((out / "tensorboard").iterdir())
    assert len(list((out / "checkpoints").glob("*.pt"))) == 2


def test_timm_and_transformers_load_a_run_and_it_can_teach(config):
    transformers = pytest.importorskip("transformers")
    train(config)
    model = timm.create_model(f"local-dir:{config.out}", pretrained=True)
    wrapped = transformers.AutoModelForImageClassification.from_pretrained(config.out)
    teacher = load_teachers([TeacherConfig(checkpoint=config.out)])
    crops = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    normalized = teacher.teachers[0].preprocessing.normalize(crops)
    with torch.no_grad():
        expected = model.eval()(normalized)
        assert torch.equal(wrapped.eval()(normalized).logits, expected)
    torch.testing.assert_close(teacher.logits([crops]), expected)
    assert teacher.class_names == list(wrapped.config.id2label.values())


@pytest.mark.drill("G11", "training stopped in the middle of a step", failing="lost")
@pytest.mark.parametrize("seconds", [0, 1000])  # a checkpoint at every step, or of passes only
def test_stopped_anywhere_and_started_again_a_run_ends_in_the_same_bits(config, drill, seconds):
    reference = replace(config, out=config.out + "-reference")
    total = train(reference).num_steps
    draw, left = random.Random(seconds), (times := drill.times(4, goal=25))
    while left:
        stopped = replace(config, out=f"{config.out}-{left}", checkpoint_seconds=seconds)
        for step in sorted(draw.sample(range(1, total + 1), min(4, left))):
            stop = StopAt(step)
            with pytest.raises(Stop):
                train(stopped, stop)
            assert stop.began < step
            left -= 1
        train(stopped)
        assert_same_run(stopped, reference)
    drill.tried(times)


def test_a_discriminator_goes_on_where_it_was(config):
    """It learns beside the student, with the same optimizer, and is part of the checkpoint."""
    config = replace(config, checkpoint_seconds=0, **ALIVE)
    reference = replace(config, out=config.out + "-reference")
    train(reference)
    with pytest.raises(Stop):
        train(config, StopAt(5))
    train(config)
    assert_same_run(config, reference)


@pytest.mark.parametrize(("clip_grad", "moves"), [(None, True), (1e-20, False)])
def test_the_gradient_of_a_discriminator_is_clipped_too(config, clip_grad, moves):
    """With so small a norm nothing moves, neither the student nor the discriminator."""
    optimizer, schedule = OptimizerConfig(weight_decay=0.0), ScheduleConfig()
    config = replace(config, optimizer=optimizer, schedule=schedule, ema_decay=None, **ALIVE)
    config = replace(config, checkpoint_seconds=0)
    with pytest.raises(Stop):
        train(replace(config, clip_grad=clip_grad), StopAt(3))
    first, second = (torch.load(path) for path in Path(config.out).glob("checkpoints/*.pt"))
    for network in ("student", "auxiliary_model"):
        changes = [(first[network][n] - value).abs().max() for n, value in second[network].items()]
        assert (max(changes) > 1e-15) == moves


def test_accuracy_is_measured_as_often_as_asked_and_at_the_end(config):
    """Every second pass, and the last; training does not notice."""
    plain = replace(config, out=config.out + "-plain")
    train(plain)
    train(replace(config, val_every=2))
    steps = [line["step"] for line in lines_of(plain) if "val_top1" in line]
    kept = [line["step"] for line in lines_of(config) if "val_top1" in line]
    assert kept == sorted({*steps[1::2], steps[-1]})
    expected = weights_of(plain)
    assert all(torch.equal(value, expected[name]) for name, value in weights_of(config).items())


@pytest.mark.parametrize("workers", ["threads", "processes"])
def test_workers_change_nothing(config, workers):
    reference = replace(config, out=config.out + "-reference")
    train(reference)
    train(replace(config, num_workers=2, workers=workers))
    assert_same_run(config, reference)


def test_a_finished_run_is_left_alone(config):
    first = train(config)
    before = {p: p.stat().st_mtime_ns for p in Path(config.out).rglob("*")}
    again = train(config)
    assert again == replace(first, already_finished=True)
    assert {p: p.stat().st_mtime_ns for p in Path(config.out).rglob("*")} == before


def test_a_run_with_other_settings_is_refused_by_naming_them(config):
    with pytest.raises(Stop):
        train(config, StopAt(3))
    other = replace(config, epochs=7, optimizer=OptimizerConfig(name="adamw", lr=0.5))
    with pytest.raises(RunError, match=r"epochs was 6, now 7; optimizer.lr was .*, now 0.5"):
        train(other)
    train(replace(config, num_workers=1, checkpoint_seconds=7))


def test_a_run_is_not_continued_with_other_labels(config, make_store, image_source, tmp_path):
    with pytest.raises(Stop):
        train(config, StopAt(3))
    other = make_store(tmp_path / "other", image_source, num_crops=7)
    with pytest.raises(RunError, match=r"data\.store_root_hash was"):
        train(replace(config, store=str(other.path)))


def test_folders_of_other_things_are_refused(config):
    Path(config.out).mkdir()
    (Path(config.out) / "thesis.tex").write_text("precious")
    with pytest.raises(RunError, match=r"not the folder of a run \(thesis.tex is in it\)"):
        train(config)


def test_mistakes_leave_no_folder_behind(config):
    """Else the corrected command would be refused as another run."""
    with pytest.raises(ConfigError, match="unknown model 'test_vitt'"):
        train(replace(config, student=StudentConfig(name="test_vitt")))
    assert not Path(config.out).exists()


def test_a_damaged_checkpoint_costs_the_time_since_the_one_before(config):
    reference = replace(config, out=config.out + "-reference")
    train(reference)
    stopped = replace(config, checkpoint_seconds=0)
    with pytest.raises(Stop):
        train(stopped, StopAt(8))
    newest = sorted((Path(config.out) / "checkpoints").glob("*.pt"))[-1]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    stop = StopAt(-1)
    train(stopped, stop)
    assert stop.began == 6
    assert_same_run(stopped, reference)


class SendAt(StopAt):
    """A progress that sends this process a signal during a step."""

    def __init__(self, step, number):
        super().__init__(step)
        self.number = number

    def advance(self, step, metrics):
        if step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ("number", "outcome"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_lets_the_step_finish_and_saves_it(config, number, outcome):
    reference = replace(config, out=config.out + "-reference")
    train(reference)
    with pytest.raises(outcome):
        train(config, SendAt(5, number))
    stop = StopAt(-1)
    train(config, stop)
    assert stop.began == 5
    assert_same_run(config, reference)


def wait_for_lines(config, number):
    """Until metrics.jsonl has that many lines."""
    log, deadline = Path(config.out) / "metrics.jsonl", time.monotonic() + 60
    while not (log.exists() and log.read_text().count("\n") >= number):
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.drill("G1", "random kills of training", failing="lost")
def test_a_killed_process_goes_on_to_the_same_bits(config, drill):
    """A real SIGKILL, with a loader process that outlives it for a while."""
    config = replace(config, num_workers=1, log_every=1, checkpoint_seconds=0)
    reference = replace(config, out=config.out + "-reference")
    num_lines = train(reference).num_steps
    draw, left = random.Random(0), (times := drill.times(2, goal=200))
    while left:
        killed = replace(config, out=f"{config.out}-{left}")
        for lines in sorted(draw.sample(range(1, num_lines - 2), min(2, left))):
            process = start(killed)
            wait_for_lines(killed, lines)
            process.kill()
            process.join()
            assert not (Path(killed.out) / "model.safetensors").exists()
            left -= 1
        train(killed)
        assert_same_run(killed, reference)
    drill.tried(times)


@pytest.fixture
def plain(config) -> TrainConfig:
    """Settings whose result does not depend on which process computes what: no batch norm, no
    dropout, no mixing. 7 images a step, so that the last batch of a pass has a single one."""
    return replace(
        config,
        student=StudentConfig(name="test_vit", input_size=32),
        mixing=MixingConfig(),
        optimizer=OptimizerConfig(lr=0.05),
        batch_size=14,
    )


def test_several_processes_train_like_one(plain):
    """Odd batches, and one that has an image for one process only."""
    reference = replace(plain, out=plain.out + "-reference")
    train(reference)
    train_together(replace(plain, device=None), 2)
    assert_close_runs(plain, reference)


def test_a_run_goes_on_with_another_number_of_processes(plain):
    reference = replace(plain, out=plain.out + "-reference")
    train(reference)
    with pytest.raises(Stop):
        train(replace(plain, checkpoint_seconds=0), StopAt(6))
    train_together(plain, 2)
    assert_close_runs(plain, reference)


def test_a_run_with_a_discriminator_goes_on_with_another_number_of_processes(plain):
    """Stopped with two processes, ended by one: checkpoints hold no names of the distributed
    wrapper, and both networks saw gradients that were averaged, accumulated and clipped once."""
    config = replace(plain, accumulate_steps=2, epochs=16, val=None, log_every=1, **ALIVE)
    reference = replace(config, out=config.out + "-reference")
    train(reference)
    processes = start_together(config, 2)
    wait_for_lines(config, 4)
    processes[0].terminate()
    assert exit_codes(processes) == [143, 143]
    resumed = StopAt(-1)
    train(config, resumed)
    assert resumed.began > 0
    assert_close_runs(config, reference)


def test_all_processes_stop_when_one_is_told_to(plain):
    """A batch system may tell only some; the others must not wait for it endlessly."""
    config = replace(plain, epochs=16, log_every=1, val=None)
    reference = replace(config, out=config.out + "-reference")
    train_together(reference, 2)
    processes = start_together(config, 2)
    wait_for_lines(config, 4)
    processes[1].terminate()
    assert exit_codes(processes) == [143, 143]
    newest = sorted((Path(config.out) / "checkpoints").glob("*.json"))[-1]
    assert json.loads(newest.read_text())["step"] == lines_of(config)[-1]["step"]
    assert not (Path(config.out) / "model.safetensors").exists()
    train_together(config, 2)
    assert_same_run(config, reference)


def test_parts_of_a_step_add_up_to_the_whole(plain):
    reference = replace(plain, out=plain.out + "-reference")
    train(reference)
    train(replace(plain, accumulate_steps=3))
    assert_close_runs(plain, reference)


def assert_close_runs(config, reference):
    expected = weights_of(reference)
    for name, value in weights_of(config).items():
        torch.testing.assert_close(value, expected[name], atol=2e-5, rtol=1e-4)
    for line, other in zip(lines_of(config), lines_of(reference), strict=True):
        assert line["step"] == other["step"]
        if "loss" in line:
            assert line["loss"] == pytest.approx(other["loss"], abs=1e-5)
            assert line["train_top1"] == other["train_top1"]
        else:
            assert line == other


def test_method_and_crop_source_are_composed_as_asked(config, tmp_path):
    """kd and vanilla run, with fresh and with stored crops; a run folder is the teacher."""
    train(config)
    teacher = TeacherConfig(checkpoint=config.out)
    for number, options in enumerate(
        [
            {"method": "kd", "teacher": teacher, "store": None},
            {"method": "kd", "teacher": teacher, "crop_source": "stored"},
            {"method": "kd", "teachers": [teacher, teacher], "store": None, "classes": "dataset"},
            {"method": "vanilla", "store": None, "label_smoothing": 0.1},
            {"method": "vanilla", "crop_source": "stored", "mixing": MixingConfig()},
            {"soft_weight": 0.5, "mixing": MixingConfig()},
            {"soft_weight": 0.5, "label_smoothing": 0.1},
            {
                "method": "funmatch",
                "teacher": teacher,
                "store": None,
                "student_augment": NO_AUGMENT,
            },
            {"method": "deit", "teacher": teacher, "store": None, "label_smoothing": 0.1},
            {"method": "mealv2", "teachers": [teacher, teacher], "store": None},
            {"method": "mealv2-fkd", "mealv2": MealV2Config(discriminator="reversed")},
            {"order": "iid", "max_images": 9, "accumulate_steps": 2},
            {"amp": "bf16", "schedule": ScheduleConfig(name="step", single_crop_ending=False)},
        ]
    ):
        result = train(replace(config, out=str(tmp_path / str(number)), epochs=2, **options))
        assert 0.0 < result.loss < 3.0


def test_images_of_unknown_classes_train_without_train_accuracy(
    config, tmp_path, make_images, make_store
):
    """Classes of the store are the teacher's; what the folders are called does not matter."""
    root = make_images(tmp_path / "flat", classes=("x", "y"))
    source = open_source(ImagesConfig(root=str(root)))
    store = make_store(tmp_path / "labels", source)
    config = replace(
        config,
        images=ImagesConfig(root=str(root)),
        val=None,
        store=str(store.path),
        mixing=MixingConfig(),
    )
    train(config)
    assert {line.get("train_top1") for line in lines_of(config)} == {None}
    for options in ({"method": "vanilla"}, {"soft_weight": 0.5}):
        with pytest.raises(ConfigError, match=r"10 of 10 lack one \(first: .*x/0\.png\)"):
            train(replace(config, out=config.out + "-2", **options))


def test_unreadable_images_are_left_out(config, image_source, make_store, tmp_path):
    store = make_store(tmp_path / "labels", image_source, unreadable=(0, 5, 7))
    assert train(replace(config, store=str(store.path), epochs=2)).num_steps == 2 * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "fkdd"}, "method 'fkdd' is unknown; use one of fkd, vanilla, kd"),
        ({"store": None}, "method fkd with stored crops needs a label store"),
        ({"method": "kd"}, "teacher.name: method kd needs one"),
        ({"teacher": TeacherConfig("test_vit")}, "teacher.name: method fkd has no online teacher"),
        ({"crop_source": "fresh"}, "method fkd replays stored crops"),
        ({"out": ""}, "out: give the folder"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"crops": CropConfig(scale=(0.5, 1.0))}, "crops: a run with stored crops does not use"),
        ({"teacher_augment": STRONG}, "teacher_augment: a run with stored crops does not use it"),
        (
            {"method": "vanilla", "crops": CropConfig(seed=1)},
            "crops.seed: a run has one seed",
        ),
        ({"method": "vanilla", "order": "iid"}, "order: a run with fresh crops does not use it"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"ema_decay": 1.0}, r"ema_decay must lie in \(0, 1\), got 1.0"),
        ({"clip_grad": 0.0}, "clip_grad must be above 0 and finite, got 0.0"),
        ({"label_smoothing": 1.0}, "label_smoothing must lie in"),
        (
            {"mealv2": MealV2Config(discriminator="off")},
            "mealv2: method fkd does not use it; .*mealv2",
        ),
        (
            {"method": "vanilla", "store": None, "soft_weight": 0.5},
            "soft_weight: method vanilla does not use it",
        ),
        (
            {"method": "funmatch", "teacher": TeacherConfig("test_vit"), "mixing": MixingConfig()},
            "method funmatch needs mixed crops: --mixing.mixup_alpha 1",
        ),
        (
            {"method": "funmatch", "teacher": TeacherConfig("test_vit")},
            "student_augment: method funmatch gives teacher and student the same crops",
        ),
        (
            {"crops_per_image": 1, "mixing": MixingConfig(mixup_alpha=1.0, within_image=True)},
            "mixing.within_image mixes crops of the same image",
        ),
        ({"schedule": ScheduleConfig(warmup_epochs=9)}, "warmup_epochs is 9, but the run has 6"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(config, options, message):
    with pytest.raises(ConfigError, match=message):
        replace(config, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crops_per_image": 7}, "the store has 6 crops per image, asked for 7"),
        ({"student": StudentConfig(name="resnet5")}, "unknown model 'resnet5'"),
        ({"temperature": 0.0}, "temperature must be above 0"),
    ],
)
def test_what_does_not_fit_together_is_said_in_one_sentence(config, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        train(replace(config, **options))
    assert "\n" not in str(caught.value)
    assert not Path(config.out).exists()


def test_a_student_with_another_head_is_refused(config):
    train(replace(config, method="vanilla", store=None))
    student = StudentConfig(name="test_vit", checkpoint=config.out, input_size=32)
    other = replace(config, out=config.out + "-2", student=student)
    with pytest.raises(ConfigError, match="has a head of 3 classes"):
        train(other)
    train(replace(other, student=replace(student, new_head=True)))


def test_other_images_than_the_labeled_ones_are_refused(config, tmp_path, make_images):
    root = make_images(tmp_path / "images", per_class=4)
    with pytest.raises(StoreMismatch, match="3 labeled but not there"):
        train(replace(config, images=ImagesConfig(root=str(root))))
    root = make_images(tmp_path / "changed", seed=1)
    with pytest.raises(CropMismatch, match="is not the file that was labeled") as caught:
        train(replace(config, images=ImagesConfig(root=str(root)), num_workers=1))
    assert "\n" not in str(caught.value)


def test_a_diverging_run_ends_with_advice_and_keeps_its_checkpoint(config):
    wild = replace(config, optimizer=OptimizerConfig(lr=1e30), clip_grad=None, log_every=1)
    with pytest.raises(RunError, match=r"the loss is (nan|inf) at step .*; lower optimizer\.lr"):
        train(wild)


class KillLoader(StopAt):
    """A progress that kills the loader's processes, as a system short of memory does."""

    def advance(self, step, metrics):
        for process in multiprocessing.active_children():
            os.kill(process.pid, signal.SIGKILL)


def test_a_killed_loader_process_is_explained(config):
    with pytest.raises(RunError, match=r"images was killed by SIGKILL, perhaps .* resumes from"):
        train(replace(config, num_workers=1, workers="processes"), KillLoader(0))
    train(config)


def test_two_processes_may_not_train_in_one_folder(config):
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            with open_run_folder(Path(config.out), {}, {"data": {}}, free=frozenset()):
                os.write(writer, b"locked")
                time.sleep(60)
        finally:
            os._exit(0)
    os.read(reader, 6)
    try:
        folder = open_run_folder(Path(config.out), {}, {"data": {}}, free=frozenset())
        with pytest.raises(RunError, match="another process is training in"), folder:
            pass
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    with open_run_folder(Path(config.out), {}, {"data": {}}, free=frozenset()):
        pass


class Remarks(Progress):
    """Keeps what is said."""

    def __init__(self):
        self.said = []

    def remark(self, text):
        self.said.append(text)


@pytest.mark.parametrize("method", ["fkd", "vanilla"])
def test_a_store_without_canaries_is_said_once_where_it_is_used(config, method):
    store = None if method == "vanilla" else config.store
    mixing = MixingConfig()
    listener = Remarks()
    train(replace(config, method=method, store=store, epochs=1, mixing=mixing), listener)
    about = [text for text in listener.said if "has no canaries" in text]
    assert len(about) == (method == "fkd")
