"""Which level of a folder tree has the classes: taken where it is clear, else refused."""

import io

import pytest
from PIL import Image

from fkd.data.layout import split_kind
from fkd.data.sources import ImagesConfig, open_source, remarks_of
from fkd.errors import ConfigError


def write(root, *names):
    """Write an image of each name; a name that ends with a slash is an empty folder."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3)).save(buffer, "PNG")
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(buffer.getvalue() if name.endswith(".png") else b"x")


def keys(source):
    return [source.key(i).decode() for i in range(len(source))]


def open_folder(root, **settings):
    return open_source(ImagesConfig(root=str(root), **settings))


class TestPlainSplits:
    def test_the_wanted_one_is_entered(self, tmp_path):
        write(tmp_path, "train/a/1.png", "train/b/2.png", "val/a/3.png")
        assert keys(open_folder(tmp_path)) == ["a/1.png", "b/2.png"]
        other = open_folder(tmp_path, split="val")
        assert keys(other) == ["a/3.png"]
        assert other.class_names == ["a"]
        assert other.root == str(tmp_path / "val")

    def test_a_missing_one_names_those_there(self, tmp_path):
        write(tmp_path, "train/a/1.png", "test/a/3.png")
        with pytest.raises(ConfigError, match=r"images\.split: .* no 'val', only test, train"):
            open_folder(tmp_path, split="val")

    def test_an_empty_one_says_so(self, tmp_path):
        write(tmp_path, "train/", "val/a/3.png")
        with pytest.raises(ConfigError, match=r"images\.split: no image files below .*/train"):
            open_folder(tmp_path)

    def test_images_without_classes(self, tmp_path):
        write(tmp_path, "train/1.png", "test/2.png")
        for file_format in ("auto", "flat"):
            source = open_folder(tmp_path, format=file_format)
            assert (keys(source), source.class_names) == (["1.png"], None)


class TestNoSplits:
    @pytest.mark.parametrize("layout", ["auto", "folder", "classes", "flat"])
    def test_a_split_that_is_not_there_to_choose_is_remarked(self, tmp_path, layout):
        """Else the images of `--val.split val` may be those that are trained on."""
        write(tmp_path / "photos", "a/1.png", "b/2.png")
        source = open_folder(tmp_path / "photos", split="val", format=layout)
        assert len(source) == 2
        assert remarks_of(source) == [
            f"images.split val chooses nothing: {tmp_path}/photos is not divided into splits"
        ]
        assert not remarks_of(open_folder(tmp_path / "photos", format=layout))

    def test_a_root_that_is_the_split_is_none(self, tmp_path):
        write(tmp_path / "validation", "a/1.png", "b/2.png")
        assert not remarks_of(open_folder(tmp_path / "validation", split="val"))


# What lies below a root, and the folder to give instead of it.
OTHER_SPLITS = [
    (["train", "val", "meta"], "train"),
    (["Train", "Test"], "Train"),
    (["TRAIN", "VAL"], "TRAIN"),
    (["train", "dev"], "train"),
    (["train2017", "val2017"], "train2017"),
    (["train2017", "val2017", "annotations"], "train2017"),
    (["train_set", "test_set"], "train_set"),
    (["TrainImages", "TestImages"], "TrainImages"),
    (["images_train", "images_val"], "images_train"),
    (["ILSVRC2012_img_train", "ILSVRC2012_img_val"], "ILSVRC2012_img_train"),
    (["train", "val", "test", "extra"], "train"),
    (["train", "unlabeled"], "train"),
    (["trn", "tst"], "trn"),
    (["dev", "eval"], "dev"),
    (["Validation", "Training", "Testing"], "Training"),
    (["train", "cat"], "train"),
    (["Train"], "Train"),
    (["trainA", "trainB", "testA"], "trainA"),
    (["seg_train", "seg_test", "seg_pred"], "seg_train"),
    (["birds-train", "birds-val"], "birds-train"),
    (["val_256", "train_256_places365standard"], "train_256_places365standard"),
    (["CUBTrain", "CUBTest"], "CUBTrain"),
    (["VOCtrain", "VOCtest"], "VOCtrain"),
    (["TRAINImages", "TESTImages"], "TRAINImages"),
]


class TestOtherSplits:
    @pytest.mark.parametrize(("folders", "give"), OTHER_SPLITS)
    def test_with_classes_in_them_they_are_refused(self, tmp_path, folders, give):
        write(tmp_path, *(f"{folder}/{name}/1.png" for folder in folders for name in "ab"))
        with pytest.raises(ConfigError, match=rf"splits .*give {tmp_path}/{give}, or"):
            open_folder(tmp_path)
        assert keys(open_folder(tmp_path / give)) == ["a/1.png", "b/1.png"]
        as_classes = open_folder(tmp_path, format="classes")
        assert as_classes.class_names == sorted(folders)

    @pytest.mark.parametrize(
        ("folders", "give"),
        [case for case in OTHER_SPLITS if not {"cat", "val_256"} & set(case[0])],
    )
    def test_and_so_they_are_with_images_in_them(self, tmp_path, folders, give):
        write(tmp_path, *(f"{folder}/{i}.png" for folder in folders for i in range(2)))
        with pytest.raises(ConfigError, match=rf"splits .*give {tmp_path}/{give}, or"):
            open_folder(tmp_path)

    @pytest.mark.parametrize("beside", ["meta/labels.txt", "meta/", "sample.png", "docs/a.png"])
    def test_whatever_lies_beside_them(self, tmp_path, beside):
        write(tmp_path, "train/a/1.png", "val/a/2.png", beside)
        with pytest.raises(ConfigError, match=rf"splits .*give {tmp_path}/train, or"):
            open_folder(tmp_path)
        with pytest.raises(ConfigError, match=rf"splits .*give {tmp_path}/val, or"):
            open_folder(tmp_path, split="val")

    def test_flat_takes_all_and_says_so(self, tmp_path):
        write(tmp_path, "train2017/1.png", "val2017/2.png")
        source = open_folder(tmp_path, format="flat")
        assert len(source) == 2
        assert "train2017 and val2017" in remarks_of(source)[0]


class TestNamesOfClasses:
    @pytest.mark.parametrize(
        "names",
        [
            ["test", "cat"],
            ["train", "bus", "car"],
            ["bullet_train", "test_tube"],
            ["bullet_train", "toy_train", "train_station"],
            ["extra", "normal"],
            ["probe", "query"],
            ["sunset", "dataset_x"],
            ["0", "1"],
        ],
    )
    def test_one_that_sounds_like_a_split_is_a_class_among_others(self, tmp_path, names):
        write(tmp_path, *(f"{name}/1.png" for name in names))
        assert open_folder(tmp_path).class_names == sorted(names)

    def test_words_that_mean_splits(self):
        for kind, names in {
            "train": ["train", "Training", "train2017", "train_set", "TrainSet", "01-train"],
            "val": ["val", "valid", "dev", "VAL", "img_val"],
            "test": ["test", "Test_Images", "eval"],
            None: ["cat", "test_tube", "trainer", "tester", "", "2017", "\u00e9train"],
        }.items():
            assert {split_kind(name.encode()) for name in names} == {kind}

    @pytest.mark.parametrize(
        ("names", "give"),
        [
            (["images", "masks"], "images"),
            (["Images", "labels"], "Images"),
            (["JPEGImages", "SegmentationClass"], "JPEGImages"),
            (["image_2", "label_2"], "image_2"),
            (["gt", "img"], "img"),
            (["fold1", "fold2"], "fold1"),
            (["part-000000", "part-000001"], "part-000000"),
            (["Split 1", "Split 2", "Split 3"], "Split 1"),
        ],
    )
    def test_some_are_of_no_class(self, tmp_path, names, give):
        write(tmp_path, *(f"{name}/{i}.png" for name in names for i in range(2)))
        with pytest.raises(
            ConfigError, match=rf"not look like classes; give {tmp_path}/{give}, or"
        ):
            open_folder(tmp_path)
        assert open_folder(tmp_path, format="classes").class_names == sorted(names)

    def test_images_beside_annotations_without_images(self, tmp_path):
        write(tmp_path, "train/images/1.png", "train/labels/1.txt", "val/images/1.png")
        with pytest.raises(
            ConfigError, match=rf"give {tmp_path}/train/images, or {tmp_path}/train"
        ):
            open_folder(tmp_path)


class TestDepth:
    @pytest.mark.parametrize(
        ("paths", "give"),
        [
            (["images/cat/1.png", "images/dog/2.png"], "images"),
            (["data/train/cat/1.png", "data/val/cat/2.png"], "data/train"),
            (["x/y/z/cat/1.png", "x/y/z/dog/2.png"], "x/y/z"),
            (["Art/cat/1.png", "Art/dog/2.png", "Real/cat/3.png"], "Art"),
            (["imgs/cat/1.png", "imgs/dog/2.png", "docs/fig.png"], "imgs"),
            (["images/train/1.png", "images/val/2.png", "labels/1.txt"], "images/train"),
            (["cat/video1/1.png", "dog/video1/1.png", "dog/video2/1.png"], "dog"),
        ],
    )
    def test_images_below_what_could_be_classes(self, tmp_path, paths, give):
        write(tmp_path, *paths)
        with pytest.raises(ConfigError, match=rf"lie deeper .*give {tmp_path}/{give}, or"):
            open_folder(tmp_path)

    def test_it_can_be_insisted_on(self, tmp_path):
        write(tmp_path, "cat/video1/1.png", "dog/video1/1.png")
        source = open_folder(tmp_path, format="classes")
        assert source.class_names == ["cat", "dog"]
        assert keys(source) == ["cat/video1/1.png", "dog/video1/1.png"]
        assert open_folder(tmp_path, format="flat").class_names is None

    def test_some_deeper_images_are_of_the_class(self, tmp_path):
        write(tmp_path, "10/b.png", "9/a.png", "cat/deep/er/x.png")
        assert open_folder(tmp_path).class_names == ["10", "9", "cat"]

    def test_a_single_class_is_remarked(self, tmp_path):
        write(tmp_path, "images/1.png")
        source = open_folder(tmp_path)
        assert source.class_names == ["images"]
        assert remarks_of(source) == [
            f"{tmp_path} has one class, images; if that is no class, give {tmp_path}/images"
        ]

    def test_who_insists_within_a_split_does_not_get_the_splits_as_classes(self, tmp_path):
        """As the classes of Tiny ImageNet are: images.format classes at the root would be wrong."""
        write(tmp_path, *(f"train/n0{i}/images/1.png" for i in (1, 2)), "val/images/1.png")
        insist = f"{tmp_path}/train with images.format classes if they are classes"
        with pytest.raises(ConfigError, match=insist):
            open_folder(tmp_path)
        assert open_folder(tmp_path / "train", format="classes").class_names == ["n01", "n02"]

    def test_the_advice_within_a_split_begins_at_the_root(self, tmp_path):
        write(tmp_path, "train/images/cat/1.png", "val/images/cat/2.png")
        with pytest.raises(ConfigError, match=f"give {tmp_path}/train/images, or"):
            open_folder(tmp_path)


class TestClassesByRequest:
    def test_need_folders_all_with_images_and_nothing_beside(self, tmp_path):
        write(tmp_path / "flat", "1.png")
        with pytest.raises(ConfigError, match="no class folders; use"):
            open_folder(tmp_path / "flat", format="classes")
        write(tmp_path / "loose", "1.png", "a/1.png")
        with pytest.raises(ConfigError, match="beside 1 class folders"):
            open_folder(tmp_path / "loose", format="classes")
        write(tmp_path / "empty", "b/", "a/1.png")
        with pytest.raises(ConfigError, match=r"class folder b of .* holds no image"):
            open_folder(tmp_path / "empty", format="classes")
