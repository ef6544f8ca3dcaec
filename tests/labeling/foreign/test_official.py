"""Label sets in the official layout, written by a script that knows nothing of this package."""

import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision.transforms.v2.functional as TF
from PIL import Image
from safetensors.torch import load_file

from fkd.cli import main
from fkd.data.sources import ImagesConfig
from fkd.errors import ConfigError, FormatError, MissingLabel
from fkd.labeling.foreign.official import read_official
from fkd.labeling.foreign.run import ImportConfig, StatedTeacher, import_labels
from fkd.labels.codec_names import parse_codec
from fkd.store import LabelStore
from fkd.training.config import StudentConfig, TrainConfig
from fkd.training.run import train

CLASSES, CROPS, SIDE = 7, 6, 32
NAMES = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu"]
LABELS = {
    "hard": lambda p: p.argmax(1),
    "smoothing": lambda p: np.stack([p.argmax(1).astype(np.float32), p.max(1)], 1),
    "ms:3": lambda p: top(p, 3),
    "mr:3": lambda p: top(p, 3),
    "full": lambda p: p,
}


def top(p: np.ndarray, k: int) -> np.ndarray:
    ids = np.argsort(-p, axis=1)[:, :k]
    return np.stack([ids.astype(np.float32), np.take_along_axis(p, ids, 1)], 1)


def probabilities_of(model, image: torch.Tensor, boxes, flips) -> np.ndarray:
    """Crop, resize, flip, normalize, softmax: one crop at a time."""
    rows = []
    for (top_, left, height, width), flip in zip(boxes, flips, strict=True):
        crop = TF.resized_crop(image, top_, left, height, width, [SIDE, SIDE], 3, antialias=True)
        crop = TF.horizontal_flip(crop) if flip else crop
        x = crop.float() / 255
        x = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
            [0.229, 0.224, 0.225]
        ).view(3, 1, 1)
        with torch.no_grad():
            rows.append(model(x[None]).softmax(1)[0].numpy())
    return np.stack(rows)


def draw_crops(random, height: int, width: int):
    boxes = []
    for _ in range(CROPS):
        h, w = int(random.integers(3, height + 1)), int(random.integers(3, width + 1))
        top_, left = int(random.integers(height - h + 1)), int(random.integers(width - w + 1))
        boxes.append((top_, left, h, w))
    return boxes, random.random(CROPS) < 0.5


@pytest.fixture(scope="module")
def model(teacher):
    model = timm.create_model(teacher.name, num_classes=CLASSES)
    model.load_state_dict(load_file(teacher.checkpoint))
    return model.eval()


@pytest.fixture
def write_set(model, image_folder, image_source, tmp_path):
    """Write a label set of the images, as the official generator does."""

    def write(kind: str, dtype=np.float32, below: str = "train") -> ImportConfig:
        random = np.random.default_rng(0)
        for i in range(len(image_source)):
            key = Path(os.fsdecode(image_source.key(i)))
            with Image.open(image_folder / key) as opened:
                pixels = torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)
            height, width = pixels.shape[1:]
            boxes, flips = draw_crops(random, height, width)
            coords = np.array(
                [(t / height, x / width, h / height, w / width) for t, x, h, w in boxes], dtype
            )
            label = LABELS[kind](probabilities_of(model, pixels, boxes, flips))
            label = label if kind == "hard" else label.astype(dtype)
            file = tmp_path / "labels" / below / key.with_suffix(".tar")
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.save([coords, flips, label], file)
        names = tmp_path / "names.txt"
        names.write_text("\n".join(NAMES))
        return ImportConfig(
            images=ImagesConfig(root=str(image_folder)),
            labels=str(tmp_path / "labels"),
            format="fkd",
            out=str(tmp_path / "store"),
            classes=str(names),
            teacher=StatedTeacher(name="test_efficientnet", input_size=SIDE),
            codec=parse_codec(kind) if kind == "mr:3" else None,
            images_per_shard=4,
        )

    return write


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["float32", "float16"])
def test_a_set_is_imported_and_proved_by_its_teacher(kind, dtype, write_set, teacher, capsys):
    config = write_set(kind, dtype)
    result = import_labels(config)
    store = result.store
    assert (store.codec.name, store.num_images, store.num_crops) == (kind, 15, CROPS)
    assert store.config["origin"] == "imported"
    assert result.num_inexact == 0
    assert len(store.canaries) > 0
    model_flags = [f"--teacher.name={teacher.name}", f"--teacher.checkpoint={teacher.checkpoint}"]
    main(
        [
            *("verify", config.out, f"--images.root={config.images.root}", *model_flags),
            f"--teacher.input_size={SIDE}",
            f"--teacher.class_names={config.classes}",
            "--spot_checks=90",
        ]
    )
    said = capsys.readouterr().out
    agreement, divergence = agreement_in(said)
    assert agreement == "100.00%"
    assert divergence < (1e-6 if dtype == np.float32 else 1e-4)


def agreement_in(said: str) -> tuple[str, float]:
    """Top-1 agreement and mean KL of a report on spot checks."""
    (line,) = [line for line in said.splitlines() if line.startswith("checked")]
    words = line.replace(",", "").split()
    return words[words.index("agreement") + 1], float(words[words.index("KL") + 2])


def test_a_student_trains_from_an_imported_set(write_set, tmp_path):
    config = write_set("ms:3")
    import_labels(config)
    result = train(
        TrainConfig(
            out=str(tmp_path / "run"),
            method="fkd",
            images=config.images,
            store=config.out,
            student=StudentConfig(name="test_vit", input_size=32),
            crops_per_image=2,
            epochs=2,
            batch_size=10,
            num_workers=0,
            device="cpu",
        )
    )
    assert np.isfinite(result.loss)


@pytest.mark.parametrize("below", ["", "train", "imagenet/train"])
def test_the_root_may_lie_higher(below, write_set):
    assert import_labels(write_set("hard", below=below)).store.num_images == 15


def test_an_import_resumes_to_the_same_bytes(write_set, tmp_path, files_of, stop_after):
    config = write_set("ms:3")
    import_labels(config)

    again = replace(config, out=str(tmp_path / "again"))
    stop_after(9, lambda progress: import_labels(again, progress))
    import_labels(again)
    assert files_of(again.out) == files_of(config.out)


def test_missing_labels_are_counted_and_named(write_set, tmp_path):
    config = write_set("hard")
    next(iter(sorted((tmp_path / "labels").rglob("*.tar")))).unlink()
    with pytest.raises(MissingLabel, match="1 of 15 images have no labels"):
        import_labels(config)


def test_labels_of_a_resized_image_are_refused(write_set, tmp_path, make_images):
    """No checksum tells; but its crop boxes are then no whole pixels."""
    config = write_set("ms:3")
    root = make_images(tmp_path / "others")
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        with Image.open(file) as opened:
            other = opened.convert("RGB").resize((opened.width + 3, opened.height + 5))
        other.save(file)
    with pytest.raises(FormatError, match="no whole pixels of an image of"):
        import_labels(replace(config, images=ImagesConfig(root=str(root))))


BOXES = np.array([[0.0, 0.0, 1.0, 1.0], [0.25, 0.5, 0.5, 0.25]], np.float32)
FLIPS = np.array([True, False])
P = np.array([[0.6, 0.3], [0.5, 0.25]], np.float32)
IDS = np.array([[3, 1], [0, 6]], np.float32)
TOP2 = np.stack([IDS, P], 1)


def read(*content, codec=None, num_classes=7):
    buffer = io.BytesIO()
    torch.save(list(content), buffer)
    wanted = None if codec is None else parse_codec(codec)
    return read_official(buffer.getvalue(), "x.tar", num_classes, wanted)


def test_a_file_is_read_number_by_number():
    found = read(BOXES, FLIPS, TOP2)
    assert found.codec == parse_codec("ms:2")
    assert found.boxes((40, 80)).tolist() == [[0, 0, 40, 80], [10, 40, 20, 20]]
    assert found.flip.tolist() == [True, False]
    assert found.label.ids.tolist() == [[3, 1], [0, 6]]
    assert found.label.values.tolist() == P.tolist()


@pytest.mark.parametrize("size", [(375, 500), (1, 1), (2999, 4001), (17, 9000)])
def test_boxes_in_float32_are_exact(size):
    random = np.random.default_rng(1)
    height = random.integers(1, size[0] + 1, 500)
    width = random.integers(1, size[1] + 1, 500)
    boxes = np.stack(
        [
            random.integers(0, size[0] - height + 1),
            random.integers(0, size[1] - width + 1),
            height,
            width,
        ],
        1,
    )
    coords = (boxes / np.array([*size, *size])).astype(np.float32)
    found = read(coords, np.zeros(500, bool), np.zeros(500, np.int64))
    assert found.boxes(size).tolist() == boxes.tolist()


def test_half_floats_are_a_pixel_off_at_most_and_stay_inside():
    size, random = (3000, 4000), np.random.default_rng(2)
    height, width = random.integers(1, 3001, 2000), random.integers(1, 4001, 2000)
    top_, left = size[0] - height, size[1] - width  # at the border
    boxes = np.stack([top_, left, height, width], 1)
    coords = (boxes / np.array([*size, *size])).astype(np.float16)
    found = read(coords, np.zeros(2000, bool), np.zeros(2000, np.int64)).boxes(size)
    assert np.abs(found - boxes).max() <= 2
    assert (found[:, :2] + found[:, 2:] <= np.array(size)).all()


REFUSED = {
    "no list": (lambda: read_official(b"\x80\x02K\x01.", "x.tar", 7, None), "no list of boxes"),
    "two parts": (lambda: read(BOXES, FLIPS), "no list of boxes"),
    "lists": (lambda: read(BOXES, [True, False], TOP2), "no list of boxes"),
    "box of 3": (lambda: read(BOXES[:, :3], FLIPS, TOP2), "expected are"),
    "flips as numbers": (lambda: read(BOXES, FLIPS.astype(int), TOP2), "expected are"),
    "fewer labels": (lambda: read(BOXES, FLIPS, TOP2[:1]), "2 crops and labels of shape"),
    "no crops": (lambda: read(BOXES[:0], FLIPS[:0], TOP2[:0]), "0 crops"),
    "id too high": (lambda: read(BOXES, FLIPS, TOP2, num_classes=6), "no whole number from 0 to 5"),
    "id of half": (lambda: read(BOXES, FLIPS, TOP2 + 0.5), "no whole number"),
    "a class twice": (lambda: read(BOXES, FLIPS, np.stack([IDS * 0, P], 1)), "a class twice"),
    "sum above 1": (lambda: read(BOXES, FLIPS, np.stack([IDS, P * 2], 1)), "no probabilities"),
    "negative": (lambda: read(BOXES, FLIPS, np.stack([IDS, -P], 1)), "no probabilities"),
    "NaN": (lambda: read(BOXES, FLIPS, np.stack([IDS, P * np.nan], 1)), "no probabilities"),
    "ids in half floats": (
        lambda: read(BOXES, FLIPS, TOP2.astype(np.float16), num_classes=21841),
        "exact only up to 2,048",
    ),
    "box outside": (lambda: read(BOXES + 0.5, FLIPS, TOP2).boxes((40, 80)), "does not fit"),
    "box without pixels": (lambda: read(BOXES * 0, FLIPS, TOP2).boxes((40, 80)), "does not fit"),
    "box NaN": (lambda: read(BOXES * np.nan, FLIPS, TOP2).boxes((40, 80)), "no share"),
    "another image": (lambda: read(BOXES, FLIPS, TOP2).boxes((41, 83)), "no whole pixels"),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_impossible_files_are_refused(make, reason):
    with pytest.raises(FormatError, match=f"x.tar.*{reason}"):
        make()


@pytest.mark.parametrize(
    ("label", "codec", "num_classes", "reason"),
    [
        (TOP2, "mr:3", 7, "they may be ms:2 or mr:2"),
        (TOP2, "full", 7, "not of codec full"),
        (TOP2[:, 1], None, 2, "may be smoothing or full; choose by --codec"),
        (np.zeros((2, 5), np.float32), None, 7, "are not of a codec"),
        (np.array([0, 1]), "smoothing", 7, "not of codec smoothing; they may be hard"),
    ],
)
def test_the_codec_must_fit_the_shape(label, codec, num_classes, reason):
    with pytest.raises(ConfigError, match=reason):
        read(BOXES, FLIPS, label, codec=codec, num_classes=num_classes)


def test_hard_labels_have_no_values_to_store(write_set):
    with pytest.raises(ConfigError, match="value_dtype: labels of codec hard have no values"):
        import_labels(replace(write_set("hard"), value_dtype="f16"))


def test_another_teacher_is_refused(write_set, make_teacher, tmp_path, capsys):
    config = write_set("ms:3")
    import_labels(config)
    other = make_teacher(tmp_path / "other.safetensors", seed=1)
    store = LabelStore.open(config.out)
    with pytest.raises(SystemExit):
        main(
            [
                *("verify", str(store.path), f"--images.root={config.images.root}"),
                f"--teacher.name={other.name}",
                f"--teacher.checkpoint={other.checkpoint}",
                f"--teacher.input_size={SIDE}",
                f"--teacher.class_names={config.classes}",
            ]
        )
    assert "does not hold this teacher's labels of these crops" in capsys.readouterr().err
