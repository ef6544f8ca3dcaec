"""On images whose outputs are known: ReaL, ImageNetV2, ImageNet-A and -R, and the comparison."""

import math

import numpy as np
import pytest
import torch

from fkd.data.imagenet import real_labels, subset_ids, wordnet_ids
from fkd.data.sources import ImagesConfig, open_source
from fkd.errors import ConfigError
from fkd.evaluation.passes import Pass, run_pass
from fkd.evaluation.reference import Reference, share_classes
from fkd.evaluation.sets import find_truth
from fkd.models.single_teacher import Teacher
from tests.evaluation.fixed import FixedModel, fixed_model, look, one_hot, write_shades

WNIDS = list(wordnet_ids())


def measure(loaded, root, kind="classes", reference=None, batch_size=3, num_workers=0, **settings):
    """Predictions, the comparison, and the truth, of images in `root`."""
    source = open_source(ImagesConfig(root=str(root), **settings))
    truth = find_truth(
        source, kind, loaded.class_names, "fixed", may_lack_classes=reference is not None
    )
    shared = None
    if reference is not None:
        names = reference.teacher.class_names
        shared = share_classes(loaded.class_names, truth.outputs, names, "fixed")
    one = Pass(
        loaded=loaded,
        is_last=False,
        owner="fixed",
        set_name=str(root),
        source=source,
        truth=truth,
        reference=reference,
        shared=shared,
    )
    device = torch.device("cpu")
    found = run_pass(one, device=device, batch_size=batch_size, num_workers=num_workers)
    return *found, truth


def val_name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}.JPEG"


class TestReal:
    """Shades in the order of the numbers; folders and keys are in another."""

    NUMBERS = (1, 2, 3, 4, 5, 10, 50_000)  # the labels of 1 are none, of 2 [970, 795], ...

    def predictions(self) -> tuple[list[int], list[bool]]:
        """For every second image one of its labels (the last), for the others class 999."""
        labels = [real_labels()[n - 1] for n in self.NUMBERS]
        said = [of[-1] if of and i % 2 else 999 for i, of in enumerate(labels)]
        return said, [c in of for c, of in zip(said, labels, strict=True)]

    @pytest.mark.parametrize("in_folders", [False, True])
    @pytest.mark.parametrize("order", [WNIDS, WNIDS[::-1]])
    def test_labels_are_found_by_the_number_in_the_name(self, tmp_path, in_folders, order):
        said, right = self.predictions()
        # In wnid folders the order of the keys is that of the folders: the reverse here.
        folders = [f"{WNIDS[-i - 1]}/" if in_folders else "" for i in range(len(self.NUMBERS))]
        names = [f + val_name(n) for f, n in zip(folders, self.NUMBERS, strict=True)]
        write_shades(tmp_path, names)
        logits = one_hot([order.index(WNIDS[c]) for c in said], 1000)
        found, _, truth = measure(fixed_model(logits, order), tmp_path, "real")
        scored = [bool(real_labels()[n - 1]) for n in self.NUMBERS]
        assert scored == [False, *[True] * 6]
        assert (len(truth.chosen), truth.num_left_out) == (6, 1)
        assert found.top1.sum() == sum(right) == 3
        positions = sorted(range(len(names)), key=lambda i: names[i].encode())
        assert found.top1.tolist() == [right[i] for i in positions if scored[i]]

    def test_the_second_label_is_as_good_as_the_first(self, tmp_path):
        write_shades(tmp_path, [val_name(2)])
        assert real_labels()[1] == (970, 795)
        for said, is_right in ((970, True), (795, True), (971, False)):
            found, _, _ = measure(fixed_model(one_hot([said], 1000), WNIDS), tmp_path, "real")
            assert found.top1.tolist() == [is_right]

    def test_46_837_of_50_000_images_count(self, tmp_path):
        class Names:
            """All validation images, without pixels."""

            root, class_names = "val", None

            def __len__(self):
                return 50_000

            def key(self, i):
                return val_name(i + 1).encode()

        truth = find_truth(Names(), "real", WNIDS, "fixed")
        assert (len(truth.chosen), truth.num_left_out) == (46_837, 3_163)
        assert truth.labels.shape == (46_837, 9)
        sizes = np.bincount((truth.labels >= 0).sum(1))
        assert (sizes[1], sizes[2], sizes[9]) == (39_394, 5_408, 2)


def test_folders_of_imagenet_v2_are_ids_not_positions_in_sorted_names(tmp_path):
    """The model says the number of the folder; sorted as text, nearly all would be wrong."""
    write_shades(tmp_path / "v2", [f"{i}/0.jpeg" for i in range(256)])
    for i in range(256, 1000):  # shades end at 255; the rest only has to be there
        write_shades(tmp_path / "v2", [f"{i}/0.jpeg"], size=(1, 1))
    loaded = fixed_model(one_hot(range(256), 1000), WNIDS)
    found, _, truth = measure(loaded, tmp_path / "v2", batch_size=200)
    assert truth.labels[:, 0].tolist() == [int(name) for name in sorted(map(str, range(1000)))]
    assert int(found.top1.sum()) == 256  # the others show shade 0, which is class 0
    assert found.predicted[found.top1].tolist() == sorted(range(256), key=str)


@pytest.mark.parametrize("kind", ["imagenet-a", "imagenet-r"])
def test_only_the_200_classes_of_the_set_are_ranked(tmp_path, kind):
    """The model prefers a class outside; among the 200 it is right on the first two images."""
    ids, outside = subset_ids(kind), next(w for w in WNIDS if w not in subset_ids(kind))
    order = WNIDS[::-1]
    logits = np.zeros((4, 1000), np.float32)
    logits[:, order.index(outside)] = 9.0
    for shade, said in enumerate([ids[0], ids[7], ids[8], outside]):
        logits[shade, order.index(said)] += 3.0
    names = [f"{ids[0]}/1.png", f"{ids[7]}/1.png", f"{ids[7]}/2.png", f"{outside}/1.png"]
    write_shades(tmp_path / "images", names)
    found, _, truth = measure(fixed_model(logits, order), tmp_path / "images", kind)
    assert (len(truth.chosen), truth.num_left_out) == (3, 1)
    assert len(truth.class_names) == 200
    assert [truth.class_names[i] for i in found.predicted.tolist()] == [ids[0], ids[7], ids[8]]
    assert found.top1.tolist() == [True, True, False]
    assert found.confidence.tolist() == pytest.approx([math.exp(3) / (math.exp(3) + 199)] * 3)
    whole, _, _ = measure(fixed_model(logits, order), tmp_path / "images")
    assert whole.top1.tolist() == [outside in name for name in sorted(names)]


@pytest.mark.parametrize("kind", ["real", "imagenet-a", "imagenet-r"])
@pytest.mark.parametrize("names", [["ant", "bee"], WNIDS[:-1], [str(i) for i in range(1000)]])
def test_sets_of_imagenet_need_a_model_of_imagenet(tmp_path, kind, names):
    write_shades(tmp_path, [f"{subset_ids('imagenet-a')[0]}/{val_name(2)}"])
    loaded = fixed_model(one_hot([0], len(names)), names)
    with pytest.raises(ConfigError, match=rf"{kind}: the {len(names)} classes of fixed .* are not"):
        measure(loaded, tmp_path, kind)


class TestReference:
    NAMES = ("ant", "bee", "cat", "dog")

    def teacher(self, logits, names, size=8, temperature=1.0) -> Reference:
        return Reference(
            Teacher(
                FixedModel(logits),
                name="teacher",
                preprocessing=look(size),
                class_names=names,
                temperature=temperature,
            )
        )

    @pytest.mark.parametrize("size", [8, 16])
    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_classes_are_matched_by_name_and_others_dropped(self, tmp_path, size, num_workers):
        draw = np.random.default_rng(0)
        student, teacher = draw.normal(size=(256, 4)) * 2, draw.normal(size=(256, 5)) * 2
        names = ("dog", "elk", "cat", "ant", "bee")  # another order, and one more
        write_shades(tmp_path, [f"{self.NAMES[i % 4]}/{i:02d}.png" for i in range(10)])
        found, compared, _ = measure(
            fixed_model(student, self.NAMES),
            tmp_path,
            reference=self.teacher(teacher, names, size, temperature=2.0),
            num_workers=num_workers,
        )
        shades = sorted(range(10), key=lambda i: (i % 4, i))
        for row, shade in enumerate(shades):
            p = [math.exp(teacher[shade][names.index(name)] / 2.0) for name in self.NAMES]
            q = [math.exp(value) for value in student[shade]]
            kl = sum(
                a / sum(p) * math.log(a / sum(p) / (b / sum(q))) for a, b in zip(p, q, strict=True)
            )
            assert float(compared.divergence[row]) == pytest.approx(kl, rel=1e-4, abs=1e-6)
            assert bool(compared.agree[row]) == (p.index(max(p)) == q.index(max(q)))
        assert 0 < compared.agree.sum() < 10
        assert found.top1.tolist() == [int(student[s].argmax()) == s % 4 for s in shades]

    def test_a_teacher_with_fewer_classes_is_compared_on_these(self, tmp_path):
        student = np.zeros((256, 4))
        student[:, 3] = 5.0  # a dog, which the teacher does not know; of the others a bee
        student[:, 1] = 1.0
        teacher = np.array([[0.0, 1.0]] * 256)  # cat and bee: a bee
        write_shades(tmp_path, ["ant/0.png", "bee/1.png"])
        reference = self.teacher(teacher, ("cat", "bee"))
        _, compared, _ = measure(fixed_model(student, self.NAMES), tmp_path, reference=reference)
        assert compared.agree.tolist() == [True, True]
        assert compared.divergence.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)

    def test_nothing_in_common_is_refused(self, tmp_path):
        write_shades(tmp_path, ["ant/0.png"])
        reference = self.teacher(np.zeros((256, 2)), ("ant", "elk"))
        with pytest.raises(ConfigError, match="teacher: it cannot be compared with fixed: "):
            measure(fixed_model(np.zeros((256, 4)), self.NAMES), tmp_path, reference=reference)

    def test_images_without_classes_can_be_compared(self, tmp_path):
        write_shades(tmp_path, ["0.png", "1.png"])
        reference = self.teacher(one_hot([0, 1], 4), self.NAMES)
        loaded = fixed_model(one_hot([0, 2], 4), self.NAMES)
        _, compared, truth = measure(loaded, tmp_path, reference=reference)
        assert compared.agree.tolist() == [True, False]
        assert truth.labels.shape == (2, 0)
        with pytest.raises(ConfigError, match="has no classes"):
            measure(loaded, tmp_path)

    def test_the_next_model_uses_the_outputs_that_are_kept(self, tmp_path, monkeypatch):
        write_shades(tmp_path / "a", [f"{self.NAMES[i % 4]}/{i}.png" for i in range(8)])
        write_shades(tmp_path / "b", ["ant/0.png"])
        reference = self.teacher(one_hot([i % 4 for i in range(256)], 4), self.NAMES, size=16)
        seen = []
        monkeypatch.setattr(
            FixedModel,
            "forward",
            lambda self, x, own=FixedModel.forward: (seen.append(len(x)), own(self, x))[1],
        )
        loaded = fixed_model(one_hot([0] * 8, 4), self.NAMES)
        fewer = fixed_model(one_hot([0] * 8, 2), self.NAMES[:2])  # knows images of two classes
        results = [measure(of, tmp_path / "a", reference=reference) for of in (loaded, loaded)]
        assert sum(seen) == 3 * 8  # the teacher once, the model twice
        assert torch.equal(results[0][1].divergence, results[1][1].divergence)
        _, compared, _ = measure(fewer, tmp_path / "a", reference=reference)
        assert sum(seen) == 3 * 8 + 4
        assert compared.agree.tolist() == [True, True, False, False]
        measure(loaded, tmp_path / "b", reference=reference)
        assert sum(seen) == 3 * 8 + 4 + 2

    def test_outputs_that_are_too_large_are_not_kept(self, tmp_path, monkeypatch):
        write_shades(tmp_path, ["ant/0.png", "bee/1.png"])
        reference = self.teacher(one_hot([0, 1], 4), self.NAMES)
        assert reference.can_keep(2**27)
        assert not reference.can_keep(2**27 + 1)  # of 4 floats each
        monkeypatch.setattr("fkd.evaluation.reference._MOST_BYTES", 31)
        loaded = fixed_model(one_hot([0, 2], 4), self.NAMES)
        for _ in range(2):
            _, compared, truth = measure(loaded, tmp_path, reference=reference)
            assert compared.agree.tolist() == [True, False]
            assert reference.kept(str(tmp_path), truth.chosen) is None


def test_outputs_that_are_not_finite_name_the_image(tmp_path):
    logits = one_hot([0, 1, 0], 2)
    logits[1, 0] = math.nan
    write_shades(tmp_path, ["ant/0.png", "bee/1.png", "bee/2.png"])
    with pytest.raises(ConfigError, match=r"fixed gives NaN or infinity for .*bee/1\.png"):
        measure(fixed_model(logits, ["ant", "bee"]), tmp_path, batch_size=2)
