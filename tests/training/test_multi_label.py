"""Several classes per image, from the images to the student: small, but for real.

Images show up to three of six shapes; a teacher is trained on all of their classes, labels them by
its sigmoids, and students learn from these labels.
"""

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image, ImageDraw
from pyarrow import parquet

from fkd.cli import main
from fkd.crops.sampling import CropConfig
from fkd.data.batches import load_batches
from fkd.data.crop_sources import CropRequest
from fkd.data.mixing import MixingConfig, sample_mix
from fkd.data.multicrop import MultiCropDataset, collate_crops
from fkd.data.sources import ImagesConfig, open_source
from fkd.engine.optim import OptimizerConfig
from fkd.errors import ConfigError
from fkd.evaluation.accuracy import LabeledImages
from fkd.evaluation.evaluate import EvalConfig, evaluate
from fkd.export.config import ExportConfig
from fkd.export.run import export
from fkd.labeling.config import LabelConfig, LabelMapsConfig
from fkd.labeling.run import label, label_maps
from fkd.labels.codec_names import parse_codec
from fkd.labels.losses import SoftTargetLoss
from fkd.models.teacher import TeacherConfig
from fkd.models.zoo import load_model
from fkd.store import LabelStore
from fkd.training.config import StudentConfig, TrainConfig
from fkd.training.run import train
from fkd.training.setup import build_setup, fill_in, open_data
from fkd.viewing.results import label_of

SHAPES = ["red square", "green square", "blue square", "red disk", "green disk", "blue disk"]
COLORS = [(230, 40, 40), (40, 220, 40), (50, 50, 240)]
CROPS = CropConfig(scale=(0.6, 1.0))


def draw(classes, cells, gray):
    image = Image.new("RGB", (48, 48), gray)
    pen = ImageDraw.Draw(image)
    for shape, cell in zip(classes, cells, strict=False):
        x, y = cell % 2 * 24 + 3, cell // 2 * 24 + 3
        of_kind = pen.rectangle if shape < 3 else pen.ellipse
        of_kind([x, y, x + 17, y + 17], fill=COLORS[shape % 3])
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def write(path, count, seed):
    random = np.random.default_rng(seed)
    images, labels = [], []
    for _ in range(count):
        classes = random.choice(6, random.integers(0, 4), replace=False).tolist()
        gray = tuple(random.integers(90, 130, 3).tolist())
        images.append(draw(classes, random.permutation(4).tolist(), gray))
        labels.append(classes)
    feature = {"feature": {"names": SHAPES, "_type": "ClassLabel"}, "_type": "List"}
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    table = pa.table({"image": images, "label": pa.array(labels, pa.list_(pa.int64()))})
    parquet.write_table(table.replace_schema_metadata(metadata), path)
    return ImagesConfig(root=str(path))


def config(out, images, method, **options) -> TrainConfig:
    settings = {
        "student": StudentConfig(name="test_resnet", input_size=32),
        "optimizer": OptimizerConfig(name="adamw", lr=0.004),
        "epochs": 10,
        "batch_size": 32,
        "num_workers": 0,
        "device": "cpu",
    }
    return TrainConfig(out=str(out), images=images, method=method, **{**settings, **options})


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Images, a trained teacher, and its labels."""
    root = tmp_path_factory.mktemp("shapes")
    images, val = write(root / "train.parquet", 192, 0), write(root / "val.parquet", 96, 1)
    trained = train(config(root / "teacher", images, "vanilla", crops=CROPS, val=val, val_every=10))
    teacher = TeacherConfig(str(root / "teacher"))
    result = label(
        LabelConfig(
            images=images,
            teacher=teacher,
            codec=parse_codec("sigmoid:4"),
            num_crops=4,
            crops=CROPS,
            device="cpu",
            out=str(root / "labels"),
        )
    )
    return SimpleNamespace(
        root=root, images=images, val=val, teacher=teacher, trained=trained, labeled=result
    )


def test_the_teacher_learns_all_classes_of_its_images(shapes):
    assert shapes.trained.val_top1 is None
    assert shapes.trained.val_map > 70  # by chance 25, the share of the images that have a class


def test_labels_are_those_of_its_sigmoids(shapes):
    checks = shapes.labeled.spot_checks.labels
    assert checks.top1_agreement == 1.0
    assert checks.mean_kl < 1e-6
    assert shapes.labeled.accuracy.top1 > 0.8  # its most probable class is one of the image's
    store = LabelStore.open(shapes.root / "labels")
    assert store.config["codec"] == "sigmoid:4"
    sums = store[store.keys([0])[0]].decode().sum(1)
    assert not torch.allclose(sums, torch.ones(4), atol=1e-2)


def test_the_command_line_verifies_trains_and_evaluates(shapes, tmp_path, capsys):
    """Twice above chance in a few seconds, and the table has mAP in the place of accuracy."""
    store, teacher = str(shapes.root / "labels"), shapes.teacher.name
    images = ["--images.root", shapes.images.root]
    main(["verify", store, *images, "--teacher.name", teacher])
    assert "top-1 agreement 100.00%" in " ".join(capsys.readouterr().out.split())
    run = str(tmp_path / "run")
    student = ["--student.name", "test_resnet", "--student.input_size", "32"]
    settings = ["--optimizer.name", "adamw", "--optimizer.lr", "0.004", "--batch_size", "32"]
    settings += ["--val.root", shapes.val.root, "--val_every", "10", "--device", "cpu"]
    given = [*images, *student, *settings, "--epochs", "10", "--out", run]
    main(["train", "--method", "fkd", "--store", store, *given])
    assert "accuracy  mAP" in capsys.readouterr().out
    out = tmp_path / "results.json"
    val = ["--images.root", shapes.val.root, "--device", "cpu"]
    main(["eval", run, teacher, *val, "--teacher.name", teacher, "--out", str(out)])
    shown = capsys.readouterr().out
    assert "mAP" in shown
    assert "top-1" not in shown
    student, itself = json.loads(out.read_text())["results"]
    assert student["mean_ap"] > 50
    assert itself["mean_ap"] == pytest.approx(shapes.trained.val_map)
    assert itself["agreement"] == 100.0
    assert itself["divergence"] == pytest.approx(0.0, abs=1e-9)
    assert student["top1"] is None
    found = [of_one["average_precision"] for of_one in student["classes"]]
    assert np.mean(found) == pytest.approx(student["mean_ap"])
    main(["eval", run, *val])
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("mAP       ", "of 6 the lowest", "F1        micro"))
    (again,) = evaluate(EvalConfig(run, images=shapes.val, teacher=shapes.teacher, out=str(out)))
    assert again.mean_ap == student["mean_ap"]


def test_an_online_teacher_is_asked_for_its_sigmoids(shapes, tmp_path):
    """The method by itself; with weight on the true classes these are all of the image's."""
    run = config(
        tmp_path / "kd", shapes.images, "kd", teacher=shapes.teacher, temperature=2.0, epochs=1
    )
    batch, method = first_batch(replace(run, soft_weight=0.5))
    targets = method.targets(batch)
    (teacher,) = method._teacher._teacher.teachers
    expected = torch.sigmoid(teacher.logits(batch.crops[0]) / 2.0)
    torch.testing.assert_close(targets.soft.dense(), expected)
    assert targets.truth.multi_label
    source = open_source(shapes.images)
    for row in range(4):
        assert targets.truth.dense()[row].nonzero()[:, 0].tolist() == source.labels(row).tolist()
    assert train(run).num_steps == 6


def first_batch(run):
    """The crops of the first four images, and the method of a run."""
    data = open_data(run)
    setup = build_setup(fill_in(run, data), data, torch.device("cpu"))
    requests = [[CropRequest(i, 0, 1) for i in range(4)]]
    (batch,) = load_batches(setup.cutter, requests, num_workers=0, pin_memory=False)
    return batch, setup.method


@pytest.mark.parametrize("method", ["vanilla", "fkd"])
def test_mixed_crops_have_the_classes_of_both(shapes, tmp_path, method):
    options = {} if method == "vanilla" else {"store": str(shapes.root / "labels")}
    run = config(tmp_path / "run", shapes.images, method, crops_per_image=1, **options)
    batch, method = first_batch(run)
    mix = sample_mix(MixingConfig(mixup_alpha=1.0), 3, 0, 4, (32, 32))
    plain, mixed = method.targets(batch), method.targets(batch.mixed(mix))
    if isinstance(plain, tuple):
        plain, mixed = plain.soft, mixed.soft
    assert mixed.multi_label
    own = plain.dense()
    expected = mix.share * own + (1 - mix.share) * own[mix.partner]
    torch.testing.assert_close(mixed.dense(), expected)


def test_a_loop_of_ones_own_has_the_right_loss(shapes):
    """No setting says what the labels are: the targets do."""
    dataset = MultiCropDataset(
        open_source(shapes.images), shapes.root / "labels", crops_per_image=2, size=32
    )
    crops, targets = collate_crops([dataset[0], dataset[5]])
    assert targets.multi_label
    assert targets.to("cpu")[1:3].multi_label
    logits = torch.randn(len(crops), 6, requires_grad=True)
    loss = SoftTargetLoss()(logits, targets)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets.dense())
    torch.testing.assert_close(loss, expected)
    with pytest.raises(ConfigError, match="sigmoid:4 labels, which cannot be read as ms:4"):
        MultiCropDataset(open_source(shapes.images), shapes.root / "labels", codec="ms:4")


def make_maps(shapes, tmp_path) -> str:
    out = str(tmp_path / "maps")
    label_maps(
        LabelMapsConfig(
            images=shapes.images, teacher=shapes.teacher, out=out, top_k=2, device="cpu"
        )
    )
    return out


@pytest.mark.parametrize("method", ["relabel", "funmatch", "mealv2", "kd", "vanilla"])
def test_what_a_method_learns_of_such_images_and_remarks(shapes, tmp_path, method):
    """A softmax that is asked of an online teacher is told; labels of a store were, when made."""
    options = {"funmatch": {"mixing": MixingConfig(mixup_alpha=1.0)}}.get(method, {})
    if method == "relabel":
        options["store"] = make_maps(shapes, tmp_path)
    elif method != "vanilla":
        options["teacher"] = shapes.teacher
    settings = config(tmp_path / "run", shapes.images, method, **options)
    data = open_data(settings)
    setup = build_setup(fill_in(settings, data), data, torch.device("cpu"))
    assert setup.multi_label == (method in ("kd", "vanilla"))
    told = any("takes the teacher's softmax" in remark for remark in setup.remarks)
    assert told == (method in ("funmatch", "mealv2"))


def test_a_softmax_of_its_students_is_not_exported(shapes, tmp_path):
    settings = ExportConfig(
        model=str(shapes.root / "teacher"), out=str(tmp_path / "model.onnx"), softmax=True
    )
    with pytest.raises(ConfigError, match="apply a sigmoid to what the file gives"):
        export(settings)
    # A new head is another classifier.
    started = load_model(str(shapes.root / "teacher"), num_classes=3, new_head=True)
    assert load_model(str(shapes.root / "teacher")).multi_label
    assert not started.multi_label


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("mealv2-fkd", {"store": True}, r"learns no multi-label labels; use fkd, vanilla, kd$"),
        ("relabel", {"maps": True, "multi_label": True}, "learns no multi-label labels"),
        ("relabel", {"maps": True, "soft_weight": 0.5}, "use soft_weight 1, without multi_label"),
        ("fkd", {"store": True, "multi_label": False}, "are multi-label; leave it out"),
        ("fkd", {"store": True, "label_temperature": 2.0}, r"--teacher\.temperature"),
        ("funmatch", {"teacher": True, "multi_label": True}, "learns no multi-label labels"),
        ("deit", {"teacher": True}, "have several each, but the student learns one"),
        ("vanilla", {"multi_label": False}, "have several each, but the student learns one"),
        ("kd", {"teacher": True, "multi_label": False, "soft_weight": 0.5}, "use soft_weight 1"),
    ],
)
def test_what_does_not_fit_is_one_sentence(shapes, tmp_path, method, options, message):
    given = {"store": str(shapes.root / "labels"), "teacher": shapes.teacher}
    options = {
        name: given[name] if value is True and name in given else value
        for name, value in options.items()
    }
    if options.pop("maps", False):
        options["store"] = make_maps(shapes, tmp_path)
    if method == "funmatch":
        options["mixing"] = MixingConfig(mixup_alpha=1.0)
    with pytest.raises(ConfigError, match=message):
        train(config(tmp_path / "run", shapes.images, method, **options))


def test_one_class_is_not_asked_of_images_with_several(shapes):
    source = open_source(shapes.images)
    with pytest.raises(ConfigError, match="have several classes each, and one is needed"):
        LabeledImages.match(source, SHAPES)


def test_a_softmax_of_such_images_is_remarked(shapes, tmp_path):
    told = []
    listener = SimpleNamespace(remark=told.append)

    class Listener:
        def __getattr__(self, name):
            return listener.remark if name == "remark" else lambda *args, **kwargs: None

    label(
        LabelConfig(
            images=shapes.images,
            teacher=shapes.teacher,
            num_crops=1,
            max_images=4,
            device="cpu",
            out=str(tmp_path / "softmax"),
        ),
        Listener(),
    )
    assert any("needs --codec sigmoid:K" in text for text in told)


@pytest.mark.parametrize("verb", ["inspect", "view"])
def test_labels_can_be_looked_at(shapes, tmp_path, verb, capsys):
    store = str(shapes.root / "labels")
    page = ["--images.root", shapes.images.root, "--out", str(tmp_path / "view.html")]
    main([verb, store, *(page if verb == "view" else [])])
    assert verb == "view" or "sigmoid:4" in capsys.readouterr().out


@pytest.mark.parametrize("option", [["--filter.class_name", "red disk"], ["--filter.disagrees"]])
def test_images_are_not_chosen_by_one_true_class(shapes, tmp_path, option, capsys):
    """Of images with several none is the true one; no image would be found."""
    given = [str(shapes.root / "labels"), "--images.root", shapes.images.root]
    with pytest.raises(SystemExit):
        main(["view", *given, *option, "--out", str(tmp_path / "view.html")])
    assert "the images have several classes each" in " ".join(capsys.readouterr().err.split())
    of_labels = ["--filter.teacher_class", "red disk", "green disk", "blue disk"]
    main(["view", *given, *of_labels, "--out", str(tmp_path / "view.html")])


@pytest.mark.parametrize("verb", ["distance", "teachers"])
def test_analyses_of_distributions_refuse_them(shapes, tmp_path, verb, capsys):
    store = str(shapes.root / "labels")
    given = ["--store", store] if verb == "distance" else ["--stores.one", store]
    images = ["--images.root", shapes.images.root]
    with pytest.raises(SystemExit):
        main(["analyze", verb, *given, *images, "--out", str(tmp_path / "figure.png")])
    assert "in which each class has a probability of its own" in " ".join(
        capsys.readouterr().err.split()
    )


def test_reports_call_it_by_its_name():
    assert [label_of(name) for name in ("val_map", "val_micro_f1", "val_box_ap50")] == [
        *("val mAP", "val micro F1", "val box AP50"),
    ]
