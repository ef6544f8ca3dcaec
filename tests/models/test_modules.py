"""Any module as a teacher: its input, its outputs, its names; and that it is left as it was."""

import copy
from types import SimpleNamespace

import pytest
import timm
import torch
import torchvision
from torch import nn

from fkd.errors import ConfigError
from fkd.models.checkpoints import weights_sha256
from fkd.models.modules import TeacherModule, load_module
from fkd.models.teacher import load_teachers
from fkd.models.trial import noise

INPUT = {"input_size": 16, "mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}


class Network(nn.Module):
    """A small classifier that gives its outputs in the form of `shape`."""

    def __init__(self, shape=lambda logits: logits, classes=3):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU())
        self.fc = nn.Linear(4, classes)
        self.shape = shape

    def forward(self, pixels):
        return self.shape(self.fc(self.body(pixels).mean((2, 3))))


def load(model, image_classes=None, **options):
    return load_module(TeacherModule(model, **INPUT | options), image_classes)


CROPS = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.manual_seed(1))


@pytest.mark.parametrize(
    "shape",
    [
        lambda logits: SimpleNamespace(logits=logits, loss=None),
        lambda logits: {"logits": logits, "features": logits[:, :1]},
        lambda logits: {"scores": logits},
    ],
    ids=["object", "dict", "only tensor"],
)
def test_outputs_are_taken_out_of_what_libraries_wrap_them_in(shape):
    plain, wrapped = load(Network()), load(Network(shape))
    assert torch.equal(plain.logits(CROPS), wrapped.logits(CROPS))
    assert wrapped.num_folded == plain.num_folded == 1
    assert wrapped.identity() == plain.identity()  # of the weights themselves, not of a wrapper


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (lambda logits: (logits, logits), "gives a tuple"),
        (lambda logits: {"a": logits, "b": logits}, "with a, b"),
        (lambda logits: logits[:, :, None], r"\(2, 3, 1\)"),
        (lambda logits: logits.argmax(1, keepdim=True), "torch.int64"),
        (lambda logits: logits.sum(1), r"shape \(2,\)"),
        (lambda logits: logits.softmax(1), "gives probabilities"),
        (lambda logits: nn.functional.dropout(logits, 0.5), "random in evaluation mode"),
        (lambda logits: logits - logits.mean(0), "other crops are beside it"),
    ],
)
def test_outputs_that_are_no_logits_are_refused(shape, words):
    with pytest.raises(ConfigError, match=words):
        load(Network(shape))


def test_values_after_a_sigmoid_are_refused_where_there_are_enough_of_them():
    """A softmax of them would be almost uniform, with the right class still ahead."""
    with pytest.raises(ConfigError, match=r"leave out its last sigmoid"):
        load(Network(torch.sigmoid, classes=10))
    for shape, classes in [
        (torch.sigmoid, 9),  # could be logits
        (lambda logits: 0 * logits, 10),  # of a new classifier
        (lambda logits: logits, 10),
    ]:
        assert len(load(Network(shape, classes=classes)).class_names) == classes


def test_the_module_is_left_as_it_was():
    model = Network().double()
    model.fc.eval()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    teacher = load(model)
    teacher.logits(CROPS)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.requires_grad and p.dtype == torch.float64 for p in model.parameters())
    assert isinstance(model.body[1], nn.BatchNorm2d)
    assert not {t.data_ptr() for t in model.parameters()} & {
        t.data_ptr() for t in teacher.model.parameters()
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_used_in_float32(dtype):
    model = Network().to(dtype)
    assert load(model).logits(CROPS).dtype == torch.float32
    expected = weights_sha256(model.float().state_dict())
    assert load(model).identity()["weights_sha256"] == expected


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch 2.10
@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel], ids=["compile", "parallel"])
def test_wrappers_of_torch_are_taken_off(wrap):
    assert load(wrap(Network())).identity() == load(Network()).identity()


def test_a_network_as_a_graph_is_a_teacher():
    model = Network(nn.Identity())
    graph = torch.fx.symbolic_trace(model)
    assert torch.equal(load(graph).logits(CROPS), load(model).logits(CROPS))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_network_of_torchscript_is_refused():
    with pytest.raises(ConfigError, match="is a ScriptModule"):
        load(torch.jit.trace(Network().eval(), torch.zeros(1, 3, 16, 16)))


def test_weights_without_a_checksum_are_refused():
    """Packed by quantization, for example: two networks would have the same identity."""

    class Packed(nn.Linear):
        def _save_to_state_dict(self, destination, prefix, keep_vars):
            destination[f"{prefix}packed"] = (self.weight, self.bias)

    with pytest.raises(ConfigError, match=r"1\.packed is a tuple without a checksum"):
        load(nn.Sequential(nn.Flatten(), Packed(768, 3)))


def test_a_network_without_weights_is_a_teacher():
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    teachers = load_teachers([TeacherModule(model, **INPUT)], image_classes=["r", "g", "b"])
    assert teachers.probabilities([CROPS]).shape == (2, 3)


def test_weights_that_are_not_there_yet_are_refused():
    with pytest.raises(ConfigError, match=r"its weight 1\.weight has no values yet"):
        load(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)))
    with torch.device("meta"):
        model = Network()
    with pytest.raises(ConfigError, match="has no values yet"):
        load(model)


def test_what_cannot_be_copied_is_refused(tmp_path):
    model = Network()
    with (tmp_path / "log").open("w") as model.log, pytest.raises(ConfigError, match="copied"):
        load(model)


class Processor:
    """What an image processor of transformers says of itself."""

    image_mean = (0.4, 0.5, 0.6)

    def to_json_string(self):
        return (
            '{"do_normalize": true, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.1, 0.2, 0.3],'
            ' "resample": 3, "size": {"height": 24, "width": 24}}'
        )


def found(preprocessing):
    return (preprocessing.input_size, preprocessing.interpolation, preprocessing.mean[0])


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        (torchvision.models.ResNet18_Weights.DEFAULT, (224, "bilinear", 0.485)),
        (torchvision.models.ResNet18_Weights.DEFAULT.transforms(), (224, "bilinear", 0.485)),
        (Processor(), (24, "bicubic", 0.4)),
        (
            {"input_size": (3, 20, 20), "interpolation": "bicubic", "mean": (0.1,) * 3,
             "std": (1.0,) * 3, "crop_pct": 0.9, "crop_mode": "center"},
            (20, "bicubic", 0.1),
        ),
    ],
    ids=["weights", "transforms", "transformers", "timm"],
)  # fmt: skip
def test_the_input_is_what_libraries_say(described, expected):
    teacher = load_module(TeacherModule(Network(), preprocessing=described))
    assert found(teacher.preprocessing) == expected
    smaller = load_module(TeacherModule(Network(), preprocessing=described, input_size=16))
    assert found(smaller.preprocessing) == (16, *expected[1:])


def test_networks_of_timm_say_it_themselves():
    model = timm.create_model("test_resnet", num_classes=3)
    teacher = load_module(TeacherModule(model, input_size=32))
    assert found(teacher.preprocessing) == (32, "bilinear", 0.5)
    assert teacher.name == "test_resnet"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "give input_size, mean, std, or preprocessing"),
        ({"input_size": 16}, "give mean, std, or"),
        ({"preprocessing": object()}, "a object says nothing of the input"),
        ({"preprocessing": {"input_size": (3, 16, 20)}}, "squares"),
        ({**INPUT, "interpolation": "nearest"}, "none of bilinear, bicubic"),
        ({**INPUT, "mean": (124, 116, 104)}, "white is 1"),
        ({**INPUT, "std": (0, 0, 0)}, "white is 1"),
        ({**INPUT, "class_names": ["a", "b"]}, "2 names are given, but Network has 3 outputs"),
        ({**INPUT, "class_names": ["a", "b", "a"]}, "two classes called 'a'"),
        ({**INPUT, "class_names": "abc"}, "a list of names"),
        ({**INPUT, "output": "head"}, "none of logits, features"),
        ({**INPUT, "output": "features", "class_names": ["a"]}, "no classes"),
        ({**INPUT, "weight": 0.0}, "above 0"),
        ({**INPUT, "name": "two\nlines"}, "one line"),
    ],
)
def test_what_is_missing_or_impossible_is_said(options, words):
    with pytest.raises(ConfigError, match=words):
        load_module(TeacherModule(Network(), **options))


def test_a_model_that_is_no_module_is_refused():
    with pytest.raises(ConfigError, match=r"a str is no torch\.nn\.Module"):
        TeacherModule("resnet18")


class TestClassNames:
    def test_those_that_are_given_go_first(self):
        assert load(Network(), ["a", "b", "c"], class_names=list("xyz")).class_names == list("xyz")

    def test_then_those_of_its_configuration(self):
        model = Network()
        model.config = SimpleNamespace(id2label={1: "two", 0: "one", 2: "three"})
        assert load(model, ["a", "b", "c"]).class_names == ["one", "two", "three"]

    def test_placeholders_of_transformers_are_no_names(self):
        model = Network()
        model.config = SimpleNamespace(id2label={i: f"LABEL_{i}" for i in range(3)})
        assert load(model, ["a", "b", "c"]).class_names == ["a", "b", "c"]

    def test_then_imagenet_if_the_images_have_other_classes(self):
        assert load(Network(classes=1000), ["a", "b"]).class_names[0] == "n01440764"

    def test_numbers_where_images_have_none(self):
        assert load(Network()).class_names == ["0", "1", "2"]

    def test_another_number_than_the_images_have_is_refused(self):
        with pytest.raises(ConfigError, match="has 3 outputs and the images have 2 classes"):
            load(Network(), ["a", "b"])


class TestFeatures:
    def test_of_timm_are_those_before_the_classifier(self):
        torch.manual_seed(0)
        model = timm.create_model("test_resnet", num_classes=3)
        teacher = load_module(TeacherModule(model, output="features", input_size=32))
        model.eval()
        expected = model.forward_head(
            model.forward_features(noise(model, teacher.preprocessing, 2)), pre_logits=True
        )
        given = teacher.model(noise(model, teacher.preprocessing, 2))
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)
        assert not teacher.is_classifier

    @pytest.mark.parametrize(
        "shape",
        [
            lambda pixels: pixels,
            lambda pixels: SimpleNamespace(pooler_output=pixels.mean((2, 3), keepdim=True)),
            lambda pixels: {"image_embeds": pixels.mean((2, 3))},
        ],
    )
    def test_of_any_other_module_are_what_it_gives(self, shape):
        class Encoder(nn.Module):
            def forward(self, pixels):
                return shape(pixels)

        teacher = load(Encoder(), output="features")
        expected = teacher.preprocessing.normalize(CROPS).mean((2, 3))
        torch.testing.assert_close(teacher.logits(CROPS), expected)
