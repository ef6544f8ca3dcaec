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

GROUPS = {"analyze": "figures of labels, models and time, with their numbers"}
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
    "merge": Verb(
        "fkd.cli.merge:merge",
        "join shards that several machines have labeled into one store",
        "fkd merge part1 part2 --images.root photos/train --out labels",
        _IMAGES | {"out": "folder of the store"},
        "PART...",
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
        "measure accuracy, calibration and agreement of models on images",
        "fkd eval run --images.root photos/val",
        _IMAGES
        | {
            "sets.NAME": "further images under a name; see below",
            "teacher.name": "a model to compare with: agreement and KL divergence",
            "out": "a JSON file of results; what it has is not computed again",
            "sort": "columns to sort the table by, e.g. set,top1",
        },
        "MODEL ...",
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
    "export": Verb(
        "fkd.cli.export:export",
        "write a run or a model as an ONNX file, compared with torch and timed",
        "fkd export run --out student.onnx --teacher.name resnet50",
        {
            "out": "the file to write; a report in JSON is written beside it",
            "format": "onnx, or pt2 for torch.export.load",
            "images.root": "images whose crops are compared; by default crops of noise",
            "normalize": "put the normalization into the file, which then takes uint8",
            "teacher.name": "a network to time beside it; needs no weights",
        },
        "MODEL",
    ),
    "transfer": Verb(
        "fkd.cli.transfer:transfer",
        "train a detector on a student's weights, or fine-tune it on other classes",
        "fkd transfer --checkpoint run --images.root data/coco --out detector",
        {
            "task": "segmentation, detection or classification, see below",
            "checkpoint": "the student: a run folder of fkd train, or a file of weights",
            "images.root": "folder of COCO; of classification, of the class folders",
            "annotations": "a JSON file in the format of COCO; then images.root has its images",
            "val.root": "folder of the validation images, where it is not that of COCO",
            "preset": "epochs and learning rate of a detector, see below",
            "out": "folder of the run",
            "smoke": "run it in seconds on generated images",
        },
        shared=True,
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
    "push": Verb(
        "fkd.cli.remote:push",
        "send a store or a run to a bucket, a folder or the Hugging Face hub",
        "fkd push labels s3://bucket/labels",
        {
            "private": "a new repository of the hub is seen by its owner only",
            "endpoint_url": "of a bucket that is not Amazon's, such as http://minio:9000",
        },
        "SOURCE URL",
    ),
    "pull": Verb(
        "fkd.cli.remote:pull",
        "fetch a store or a run from a bucket, a web server or the hub, checked",
        "fkd pull https://host/labels labels",
        {
            "shards": "only these of a store, e.g. 0:10 or 1/4",
            "root_hash": "that the store must have",
        },
        "URL FOLDER",
    ),
    "view": Verb(
        "fkd.cli.view:view",
        "show images, crop boxes and labels in a browser",
        "fkd view labels --images.root photos/train --filter.disagrees --sort high_entropy",
        _IMAGES
        | {
            "out": "the page; by default beside the store",
            "filter.class_name": "only images of these true classes",
            "filter.disagrees": "only images whose labels say another class",
            "sort": "by name, entropy or top probability",
            "serve": "browse: filters and pages in the browser, no file",
        },
        "STORE",
    ),
    "report": Verb(
        "fkd.cli.report:report",
        "write an HTML page of training runs: results, curves, settings",
        "fkd report runs/* --out report.html --figures figures/*.svg",
        {
            "out": "the page",
            "title": "of the page",
            "figures": "files to show: SVG, PNG, JPEG, or JSON as tables",
        },
        "RUN...",
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
    "analyze distance": Verb(
        "fkd.cli.analyze.distance:distance",
        "cross-entropies between truth, label maps, stored labels and models (Eq. 2, Fig. 3)",
        "fkd analyze distance --images.root photos --store labels --models.base resnet50",
        _IMAGES
        | {
            "store": "folder of the label store, whose crops are looked at",
            "maps": "folder of a store of label maps (ReLabel), pooled at the same crops",
            "models": "networks to compare, each with a name of yours, see below",
            "sample.num_classes": "how many classes, from the first",
            "out": "folder of the figure and the numbers",
        },
    ),
    "analyze labels": Verb(
        "fkd.cli.analyze.labels:labels",
        "crops with their ReLabel and FKD labels, where these differ (Fig. 2)",
        "fkd analyze labels --images.root photos --store labels --maps maps",
        _IMAGES
        | {
            "store": "folder of the label store; of full labels (--codec full), or with --teacher",
            "maps": "folder of a store of label maps (ReLabel) of the same images",
            "teacher.name": "the store's teacher, to label the shown crops again in full",
            "num_examples": "crops for each criterion, see below",
            "out": "folder of the figure and the numbers",
        },
    ),
    "analyze attention": Verb(
        "fkd.cli.analyze.attention:attention",
        "where models look: Grad-CAM and guided backpropagation side by side (Figs. 6 and 7)",
        "fkd analyze attention run tf_efficientnet_lite0 --images.root photos/val",
        _IMAGES
        | {
            "num_shown": "images in the figure",
            "num_images": "images that area and confidence are measured on",
            "target": "class of the maps: predicted, truth, or a name",
            "layer": "of the maps; by default the last one with positions",
            "out": "folder of the figure and the numbers",
        },
        "MODEL...",
    ),
    "analyze teachers": Verb(
        "fkd.cli.analyze.teachers:teachers",
        "teachers and stores side by side: entropy, accuracy, calibration, agreement, cost",
        "fkd analyze teachers --images.root photos/val --models.lite0 tf_efficientnet_lite0",
        {
            **_IMAGES,
            "models.NAME": "a teacher, by a name of yours: a timm model, or a run folder",
            "stores.NAME": "a label store of the images, whose crops are looked at",
            "num_images": "images of the sample",
            "num_crops": "crops of each",
            "sort": "the number by which teachers are ordered",
            "out": "folder of the figure and the numbers",
        },
    ),
    "analyze coverage": Verb(
        "fkd.cli.analyze.coverage:coverage",
        "how often a training run uses each stored crop, and duplicate images",
        "fkd analyze coverage --store labels --images.root photos/train --epochs 300",
        {
            **_STORE,
            **_IMAGES,
            "num_crops": "crops stored of each image, where there is no store yet",
            "epochs": "how often every image is seen",
            "crops_per_image": "crops of one image in a mini-batch",
            "order": "how stored crops are drawn",
            "out": "folder of the figures and the numbers",
        },
    ),
    "analyze duplicates": Verb(
        "fkd.cli.analyze.duplicates:duplicates",
        "images that occur twice: the same content, or thumbnails that look the same",
        "fkd analyze duplicates --images.root photos/train --val.root photos/val",
        {
            **_IMAGES,
            "val.root": "folder of further images, which should not be among the others",
            "store": "a label store of the images; has their checksums",
            "near": "also find images that look the same",
            "out": "folder of the figure and the numbers",
        },
    ),
    "analyze time": Verb(
        "fkd.cli.analyze.step_time:step_time",
        "where a training step goes, by method: loading, labels, teacher, student (Fig. 5)",
        "fkd analyze time --images.root photos/train --student.name resnet18",
        {
            "images.root": "folder of the images, one folder per class or all in one",
            "student.name": 'the student: a timm model, or "torchvision/NAME"',
            "teacher.name": "the online teacher of kd, which is left out without one",
            "batch_size": "crops per step",
            "repeats": "turns of each method; more for a busy machine",
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
