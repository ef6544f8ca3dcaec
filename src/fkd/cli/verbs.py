"""The verbs of the command line: which function each one calls, and what its --help begins with."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Verb:
    """A verb of `fkd`.

    Attributes:
        target: "module:function"; imported when the verb is used, so `fkd --help` needs no torch.
            If the only parameter of the function is a configuration dataclass, the fields of that
            dataclass are the options; otherwise the parameters are.
        summary: one line for the list of verbs.
        example: a command that works as it stands, but for its paths.
        options: the options that a beginner needs, with a line on each.
        arguments: positional arguments, as the usage line shows them.
        shared: whether the processes of torchrun share the work; if not, one of them does it all.
        alone: what to call instead of `target` if only positional arguments and `--repair` are
            given; it imports less.
    """

    target: str
    summary: str
    example: str
    options: dict[str, str] = field(default_factory=dict)
    arguments: str = ""
    shared: bool = False
    alone: str = ""


_IMAGES = {"images.root": "folder of the images, one folder per class or all in one"}
_TEACHER = {"teacher.name": 'the teacher: a timm model, or "torchvision/NAME"'}
_LABELS = {"num_crops": "crops stored per image", "codec": "how a label is compressed"}
_STORE = {"store": "folder of the label store"}

GROUPS = {"analyze": "figures of labels, models, storage and time, each with its numbers"}
"""First words of the verbs of two words, and what their verbs have in common."""

VERBS: dict[str, Verb] = {
    "plan": Verb(
        "fkd.cli.label:plan",
        "bytes, teacher crops and hours of `fkd label`, before it runs",
        "fkd plan --images.root photos/train --teacher.name tf_efficientnet_lite0 --out labels",
        _IMAGES | _TEACHER | {"out": "folder of the label store; nothing is written"} | _LABELS,
    ),
    "label": Verb(
        "fkd.cli.label:label",
        "run the teacher once and write a label store",
        "fkd label --images.root photos/train --teacher.name tf_efficientnet_lite0 --out labels",
        _IMAGES | _TEACHER | {"out": "folder of the label store"} | _LABELS,
        shared=True,
    ),
    "label-maps": Verb(
        "fkd.cli.label:label_maps",
        "make one label map of each whole image (ReLabel)",
        "fkd label-maps --images.root photos/train --teacher.name tf_efficientnet_lite0 --out maps",
        _IMAGES
        | _TEACHER
        | {"out": "folder of the store of maps", "top_k": "classes kept of each cell"},
        shared=True,
    ),
    "import-labels": Verb(
        "fkd.cli.label:import_labels",
        "write labels that others have made as a label store",
        "fkd import-labels --format fkd --labels theirs --images.root imagenet/train --out ours",
        _IMAGES
        | {
            "labels": "folder of the label files",
            "format": "fkd, ml-dr or relabel, see above",
            "out": "folder of the label store",
            "classes": "names of the class ids: imagenet, or a file",
            "teacher.name": "its network, which the files do not say; with input_size",
        },
    ),
    "train": Verb(
        "fkd.cli.train:train",
        "train a student from a label store (or without one)",
        "fkd train --store labels --images.root photos/train --student.name resnet18 --out run",
        {
            "method": "what the student is trained against, see below",
            **_STORE,
            **_IMAGES,
            "student.name": 'the student: a timm model, or "torchvision/NAME"',
            "out": "folder of the run",
            "epochs": "how often every image is seen",
        },
        shared=True,
    ),
    "eval": Verb(
        "fkd.cli.evaluate:evaluate",
        "measure top-1 and top-5 of a run or a model on images",
        "fkd eval run --images.root photos/val",
        _IMAGES,
        "MODEL",
    ),
    "probe": Verb(
        "fkd.cli.probe:probe",
        "measure nearest neighbors and a linear classifier on frozen features",
        "fkd probe run --images.root photos/train --val.root photos/val",
        {
            "images.root": "folder of the training images, one folder per class",
            "val.root": "folder of the images to measure accuracy on, same classes",
            "checkpoint": "weights for MODEL where it is the name of a network",
            "protocol": "how the linear classifier is trained, see below",
            "out": "folder of the features, computed once and used again",
        },
        "MODEL",
    ),
    "inspect": Verb(
        "fkd.cli.look:inspect",
        "show what a store holds: settings, sizes, sample labels",
        "fkd inspect labels",
        {"num_samples": "sample labels to print"},
        "STORE",
    ),
    "verify": Verb(
        "fkd.cli.verify_images:verify",
        "check that a store is intact and belongs to these images",
        "fkd verify labels --images.root photos/train --teacher.name tf_efficientnet_lite0",
        _IMAGES | _TEACHER | {"repair": "set damaged shards aside, to be labeled again"},
        "STORE",
        alone="fkd.cli.verify:verify_bytes",
    ),
    "convert": Verb(
        "fkd.cli.convert:convert",
        "write a store in compact or plain form, without the teacher",
        "fkd convert labels --out labels-compact",
        {"out": "folder of the new store", "form": "compact or plain"},
        "STORE",
    ),
    "view": Verb(
        "fkd.cli.view:view",
        "write an HTML page of images, crop boxes and labels",
        "fkd view labels --images.root photos/train",
        _IMAGES | {"out": "the page; by default beside the store"},
        "STORE",
    ),
    "analyze storage": Verb(
        "fkd.cli.analyze.storage:storage",
        "bytes of labels by codec: the paper's formula, official files, and ours (Table 2)",
        "fkd analyze storage --num_images 1281167 --num_classes 1000 --num_crops 200",
        {
            "num_images": "of the data set",
            "num_classes": "of a label",
            "num_crops": "stored of each image",
            "store": "a label store, to be measured beside the predictions",
            "out": "folder of the figure and the numbers",
        },
    ),
    "demo": Verb(
        "fkd.cli.demo:demo",
        "label, check and train on bundled real images, in minutes",
        "fkd demo",
        {"out": "folder of all that it writes"},
    ),
}
