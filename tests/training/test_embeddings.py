"""Students of embeddings: whole runs from a store of features to a network that others can use."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from fkd.crops.replay import InputSpec
from fkd.data.banks import draw_bank
from fkd.data.batches import Batch
from fkd.data.mixing import MixingConfig
from fkd.data.multicrop import MultiCropDataset, collate_crops
from fkd.data.sources import ImagesConfig
from fkd.engine.logging import read_metrics
from fkd.engine.optim import OptimizerConfig
from fkd.engine.schedule import ScheduleConfig
from fkd.errors import ConfigError
from fkd.labeling.config import LabelConfig
from fkd.labeling.run import label
from fkd.labels.embeddings import Embeddings
from fkd.methods import MethodInputs, SslConfig, find_method
from fkd.models.teacher import TeacherConfig, load_teachers
from fkd.models.zoo import load_model
from fkd.store import LabelStore
from fkd.training.config import StudentConfig, TrainConfig
from fkd.training.run import train
from fkd.training.students import build_student
from tests.training.processes import Stop, StopAt, start, train_together

SIDE = 32


@pytest.fixture(scope="session")
def teacher(tmp_path_factory) -> TeacherConfig:
    """A network with random weights, asked for its features."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "t.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), path)
    return TeacherConfig("test_resnet", output="features", checkpoint=str(path), input_size=SIDE)


@pytest.fixture(scope="session")
def label_features(teacher):
    def make(root, out, num_crops=6) -> Path:
        images = ImagesConfig(root=str(root))
        label(LabelConfig(images=images, out=str(out), teacher=teacher, num_crops=num_crops))
        return out

    return make


@pytest.fixture(scope="session")
def feature_store(image_folder, label_features, tmp_path_factory) -> Path:
    """6 crops of each of the 15 images, with their features."""
    return label_features(image_folder, tmp_path_factory.mktemp("features") / "store")


@pytest.fixture
def config(tmp_path, image_folder, feature_store) -> TrainConfig:
    """6 epochs with everything switched on that resuming could get wrong."""
    return TrainConfig(
        out=str(tmp_path / "run"),
        images=ImagesConfig(root=str(image_folder)),
        val=ImagesConfig(root=str(image_folder)),
        store=str(feature_store),
        method="fkd-ssl",
        student=StudentConfig(name="test_resnet", input_size=SIDE),
        crops_per_image=2,
        epochs=6,
        batch_size=8,
        optimizer=OptimizerConfig(name="adamw"),
        schedule=ScheduleConfig(warmup_epochs=1, per_step=True),
        mixing=MixingConfig(mixup_alpha=0.8, cutmix_alpha=1.0, prob=0.5),
        ema_decay=0.9,
        num_workers=0,
        log_every=3,
        device="cpu",
    )


@pytest.fixture
def method_of():
    def build(config: SslConfig, width=6, bank=None):
        return find_method("fkd-ssl")(
            MethodInputs(
                num_classes=width,
                student=InputSpec(SIDE, "bilinear"),
                normalize=torch.Tensor.float,
                teacher=None,
                temperature=1.0,
                soft_weight=1.0,
                label_smoothing=0.0,
                options=config,
                bank=bank,
            )
        )

    return build


def lines_of(config) -> list[dict]:
    return read_metrics(Path(config.out) / "metrics.jsonl")


def run_folder_weights(config):
    names = ("model.safetensors", "head.safetensors")
    return {name: load_file(Path(config.out) / name) for name in names}


def assert_same_bits(config, reference):
    expected = run_folder_weights(reference)
    for file, weights in run_folder_weights(config).items():
        assert all(torch.equal(value, expected[file][name]) for name, value in weights.items())
    timeless = [
        [{k: v for k, v in line.items() if "second" not in k} for line in lines_of(of_one)]
        for of_one in (config, reference)
    ]
    assert timeless[0] == timeless[1]


def test_a_run_leaves_a_network_and_its_head(config):
    result = train(config)
    out = Path(config.out)
    assert result.val_top1 is None
    assert result.val_knn == lines_of(config)[-1]["val_knn"]
    assert {line.get("train_top1") for line in lines_of(config)} == {None}
    described = json.loads((out / "config.json").read_text())
    assert (described["architecture"], described["num_classes"]) == ("test_resnet", 0)
    assert described["pretrained_cfg"]["input_size"] == [3, SIDE, SIDE]
    assert described["fkd"]["head"]
    assert "label_names" not in described
    network = timm.create_model(
        "test_resnet", num_classes=0, checkpoint_path=str(out / "model.safetensors")
    )
    head = load_file(out / "head.safetensors")
    assert head["layers.0.weight"].shape[1] == network.num_features
    assert len(head["layers.2.bias"]) == LabelStore.open(config.store).num_classes
    loaded = load_model(checkpoint=config.out)
    assert (loaded.num_classes, loaded.class_names) == (0, None)
    images = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        assert torch.equal(loaded.model.eval()(images), network.eval()(images))


def test_the_student_learns_what_the_store_says(config):
    """Without a head, a network like the teacher gets nearer to its features."""
    student = StudentConfig(name="test_resnet", input_size=SIDE, head="none")
    quiet = {"val": None, "mixing": MixingConfig(), "ema_decay": None, "schedule": ScheduleConfig()}
    optimizer = OptimizerConfig(name="adamw", lr=0.003)
    config = replace(config, student=student, epochs=40, optimizer=optimizer, **quiet)
    train(replace(config, ssl=SslConfig(loss="cosine")))
    losses = [line["loss"] for line in lines_of(config)]
    assert losses[-1] < 0.5 * losses[0]
    assert not (Path(config.out) / "head.safetensors").exists()


@pytest.mark.parametrize(
    ("ssl", "head"),
    [
        (SslConfig(loss="dims", temperature=0.1), {"head": "prototypes", "head_dim": 9}),
        (SslConfig(loss="cosine"), {"head": "mlp", "head_hidden": 17}),
        (SslConfig(loss="bank", bank_size=11), {"head": "mlp"}),
    ],
    ids=lambda value: getattr(value, "loss", ""),
)
def test_stopped_and_started_again_a_run_ends_in_the_same_bits(config, ssl, head):
    student = StudentConfig(name="test_resnet", input_size=SIDE, drop_path_rate=0.1, **head)
    config = replace(config, student=student, ssl=ssl, checkpoint_seconds=0)
    reference = replace(config, out=config.out + "-reference")
    train(reference)
    for step in (3, 8):
        with pytest.raises(Stop):
            train(config, StopAt(step))
    train(config)
    assert_same_bits(config, reference)


def test_a_killed_process_goes_on_to_the_same_bits(config):
    config = replace(config, ssl=SslConfig(loss="bank"), log_every=1, checkpoint_seconds=0)
    reference = replace(config, out=config.out + "-reference")
    train(reference)
    process, log = start(config), Path(config.out) / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text().count("\n") >= 3):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.join()
    assert not (Path(config.out) / "model.safetensors").exists()
    train(config)
    assert_same_bits(config, reference)


@pytest.mark.parametrize("loss", ["dims", "cosine", "bank"])
def test_several_processes_train_like_one(config, loss):
    """No batch norm and no mixing, whose results depend on which process computes what."""
    config = replace(
        config,
        student=StudentConfig(name="test_vit", input_size=SIDE),
        ssl=SslConfig(loss=loss),
        mixing=MixingConfig(),
        optimizer=OptimizerConfig(lr=0.05),
        batch_size=14,
    )
    reference = replace(config, out=config.out + "-reference")
    train(reference)
    train_together(replace(config, device=None), 2)
    expected = run_folder_weights(reference)
    for file, weights in run_folder_weights(config).items():
        for key, value in weights.items():
            torch.testing.assert_close(value, expected[file][key], atol=2e-5, rtol=1e-4)
    pairs = zip(lines_of(config), lines_of(reference), strict=True)
    for line, other in pairs:
        for key in ("loss", "val_knn"):
            assert line.get(key) == pytest.approx(other.get(key), abs=1e-4)


def test_networks_without_a_head_train_together(config):
    """A network of torchvision had a classifier, whose weights would get no gradient."""
    student = StudentConfig(name="torchvision/resnet18", input_size=SIDE)
    train_together(replace(config, student=student, device=None, epochs=2), 2)
    assert "head.safetensors" in {path.name for path in Path(config.out).iterdir()}


@pytest.mark.parametrize(
    "options",
    [
        {"amp": "bf16"},
        {"accumulate_steps": 2, "order": "iid", "max_images": 9},
        {"ema_decay": None, "num_workers": 1, "workers": "processes"},
        {"schedule": ScheduleConfig(single_crop_ending=False), "clip_grad": 1.0},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_other_runs_can_do_works(config, options):
    config = replace(config, epochs=2, ssl=SslConfig(loss="bank"), **options)
    assert 0.0 < train(config).loss < 9.0


def test_images_need_no_classes(config, tmp_path, make_images, label_features):
    """One folder of images, unlabeled; accuracy is that of neighbors among labeled ones."""
    labeled = make_images(tmp_path / "labeled", classes=("x", "y"))
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(labeled.rglob("*.png"))):
        (flat / f"{number}.png").write_bytes(path.read_bytes())
    store = label_features(flat, tmp_path / "store")
    config = replace(
        config,
        images=ImagesConfig(root=str(flat)),
        val=ImagesConfig(root=str(labeled)),
        store=str(store),
        epochs=2,
    )
    assert 0.0 <= train(config).val_knn <= 100.0
    without = replace(config, val=None, out=config.out + "-2")
    assert train(without).val_knn is None
    refused = replace(config, val=ImagesConfig(root=str(flat)), out=config.out + "-3")
    with pytest.raises(ConfigError, match="has no classes"):
        train(refused)


def test_neighbors_need_more_than_one_image(config, tmp_path, make_images):
    one = make_images(tmp_path / "one", classes=("x",), per_class=1)
    with pytest.raises(ConfigError, match="has a single labeled image"):
        train(replace(config, val=ImagesConfig(root=str(one))))
    assert not Path(config.out).exists()


def test_a_trained_network_starts_other_runs(config, label_store):
    """Supervised with a new head, or on embeddings with its own head."""
    train(config)
    student = StudentConfig(name="test_resnet", checkpoint=config.out, input_size=SIDE)
    again = replace(config, out=config.out + "-2", student=student)
    built, _ = build_student(
        student, LabelStore.open(config.store).num_classes, learns_embeddings=True, seed=5
    )
    kept = run_folder_weights(config)["head.safetensors"]
    assert all(torch.equal(v, kept[n]) for n, v in built.head.state_dict().items())
    assert train(again).loss < 9.0
    supervised = replace(
        again,
        out=config.out + "-3",
        method="fkd",
        store=str(label_store.path),
        mixing=MixingConfig(),
    )
    with pytest.raises(ConfigError, match="has no head"):
        train(supervised)
    train(replace(supervised, student=replace(student, new_head=True)))
    described = json.loads((Path(supervised.out) / "config.json").read_text())
    assert described["label_names"] == list(label_store.class_names)


def test_a_head_that_does_not_fit_is_refused(config):
    train(replace(config, epochs=2))
    student = StudentConfig(name="test_resnet", checkpoint=config.out, input_size=SIDE)
    other = replace(config, out=config.out + "-2", student=replace(student, head_hidden=5))
    with pytest.raises(ConfigError, match=r"head.safetensors is of another kind or size"):
        train(other)
    train(replace(other, epochs=2, student=replace(other.student, new_head=True)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"soft_weight": 0.5}, "soft_weight: method fkd-ssl does not use it"),
        ({"label_smoothing": 0.1}, "label_smoothing: method fkd-ssl does not use it"),
        ({"temperature": 0.2}, "temperature: method fkd-ssl does not use it"),
        ({"label_temperature": 2.0}, "label_temperature: method fkd-ssl does not use it"),
        ({"teacher_weights": [1.0]}, "teacher_weights: method fkd-ssl does not use it"),
        ({"crop_source": "fresh"}, "method fkd-ssl replays stored crops"),
        ({"store": None}, "method fkd-ssl with stored crops needs a label store"),
        ({"method": "fkd", "ssl": SslConfig(loss="cosine")}, "ssl: method fkd does not use it"),
        (
            {"method": "fkd", "student": StudentConfig(name="test_vit", head="none")},
            "student.head: method fkd, whose student gives classes, does not use it",
        ),
    ],
)
def test_settings_of_classes_are_refused(config, options, message):
    with pytest.raises(ConfigError, match=message):
        replace(config, **options)


@pytest.mark.parametrize("method", ["fkd", "mealv2-fkd", "relabel", "vanilla", "kd"])
def test_a_store_of_features_is_refused_where_classes_are_learned(config, method, teacher):
    source = None if method == "relabel" else "stored"
    own = replace(teacher, output="logits") if method == "kd" else None
    config = replace(config, method=method, crop_source=source, teacher=own)
    with pytest.raises(ConfigError, match=f"no classes, and method {method} learns classes; use"):
        train(config)
    assert not Path(config.out).exists()


@pytest.mark.parametrize("method", ["kd", "funmatch", "deit", "mealv2"])
def test_an_online_teacher_of_features_is_refused_where_classes_are_learned(
    config, method, teacher
):
    """Features would pass for classes: their softmax is a distribution like any other."""
    mixing = config.mixing if method == "funmatch" else MixingConfig()
    config = replace(config, method=method, store=None, teacher=teacher, mixing=mixing)
    words = f"no classes, and method {method} learns classes; use method s2bnn or s2bnn-both"
    with pytest.raises(ConfigError, match=words):
        train(config)
    assert not Path(config.out).exists()


def test_features_cannot_be_the_classes_of_the_images(config, teacher):
    config = replace(config, method="kd", store=None, teacher=teacher, classes="dataset")
    with pytest.raises(
        ConfigError, match=r"teacher\.output: test_resnet gives features, which are"
    ):
        train(config)


def test_what_does_not_fit_a_student_of_embeddings_is_one_sentence(config, label_store, map_store):
    for store in (label_store, map_store):
        with pytest.raises(ConfigError, match="holds labels of classes, and method fkd-ssl learns"):
            train(replace(config, store=str(store.path)))
    vit = StudentConfig(name="test_vit", input_size=SIDE, head="none")
    with pytest.raises(ConfigError, match="student test_vit has 64 features, the embeddings to"):
        train(replace(config, student=vit))
    moco = StudentConfig(name="moco_v2_resnet50", input_size=SIDE)
    with pytest.raises(ConfigError, match="moco_v2_resnet50 has a head of its own"):
        train(replace(config, student=moco))
    assert not Path(config.out).exists()


@pytest.mark.parametrize("loss", ["dims", "cosine", "bank"])
@pytest.mark.parametrize("head", ["none", "mlp", "prototypes"])
def test_stored_rows_give_the_loss_of_the_teacher_itself(
    image_folder, feature_store, teacher, method_of, loss, head
):
    """Half floats against the same teacher that looks at the same crops."""
    store = LabelStore.open(feature_store)
    width = store.num_classes
    dataset = MultiCropDataset(image_folder, store, crops_per_image=6, size=SIDE, output="uint8")
    crops, stored = collate_crops([dataset[i] for i in range(15)])
    live = load_teachers([teacher]).logits([crops])
    student, card = build_student(
        StudentConfig(name="test_resnet", input_size=SIDE, head=head),
        width,
        learns_embeddings=True,
        seed=1,
    )
    config = SslConfig(loss=loss)
    bank = draw_bank(store, torch.arange(15).numpy(), 32, seed=0) if loss == "bank" else None
    method = method_of(config, width, bank)
    method.prepare_student(student)
    with torch.no_grad():
        outputs = student.eval()(card.preprocessing.normalize(crops))

    def loss_of(targets):
        batch = Batch((crops,), torch.full((len(crops),), -1), targets)
        return method.loss(outputs, method.targets(batch))

    assert isinstance(stored, Embeddings)
    torch.testing.assert_close(loss_of(stored), loss_of(Embeddings(live)), rtol=1e-3, atol=0.0)
    assert not torch.equal(stored.values, live)  # or nothing was compared
