"""Few classes, few images, and a part of the images: what a newcomer tries first."""

import os
from dataclasses import replace

import pytest

from fkd import MultiCropDataset
from fkd.cli import main
from fkd.data.sources import ImagesConfig, open_source
from fkd.data.subset import labeled_part, spread
from fkd.errors import ConfigError, StoreMismatch
from fkd.labeling.config import LabelMapsConfig
from fkd.labeling.run import label, label_maps
from fkd.store import LabelStore
from fkd.training.config import StudentConfig, TrainConfig
from fkd.training.run import train


class TestFewClasses:
    @pytest.mark.parametrize("form", ["plain", "compact"])
    @pytest.mark.parametrize("num_classes", [1, 2, 3, 5, 6])
    def test_the_default_codec_fits(self, tmp_path, make_config, make_teacher, num_classes, form):
        teacher = make_teacher(tmp_path / "t.safetensors", num_classes=num_classes)
        config = make_config(tmp_path / "store", teacher=teacher, form=form)
        store = label(replace(config, codec=None)).store
        assert store.codec.name == f"ms:{min(5, num_classes)}"
        student = StudentConfig(name="test_resnet", input_size=32)
        trained = train(
            TrainConfig(
                out=str(tmp_path / "run"),
                images=config.images,
                store=config.out,
                student=student,
                crops_per_image=1,
                epochs=1,
                batch_size=8,
                device="cpu",
                num_workers=0,
            )
        )
        assert trained.loss == trained.loss  # no NaN

    @pytest.mark.parametrize("num_classes", [1, 2, 4, 7])
    def test_label_maps(self, tmp_path, make_teacher, image_folder, num_classes):
        teacher = make_teacher(tmp_path / "t.safetensors", num_classes=num_classes)
        images = ImagesConfig(root=str(image_folder))
        config = LabelMapsConfig(
            images=images, teacher=teacher, out=str(tmp_path / "maps"), accuracy_images=0
        )
        store = label_maps(config).store
        assert store.codec.name == f"top:{min(5, num_classes)}"

    def test_a_codec_that_was_asked_for_is_not_changed(self, tmp_path, make_config, make_teacher):
        teacher = make_teacher(tmp_path / "t.safetensors", num_classes=3)
        with pytest.raises(ConfigError, match="codec ms:5 keeps 5 classes but there are only 3"):
            label(make_config(tmp_path / "store", teacher=teacher, codec="ms:5"))

    def test_several_teachers_apart(self, tmp_path, make_config, make_teacher):
        teachers = [make_teacher(tmp_path / f"{i}", seed=i, num_classes=3) for i in range(2)]
        config = make_config(tmp_path / "store", teachers=teachers, separate=True)
        assert label(replace(config, codec=None)).store.codec.name == "ms:3*2"


class TestSomeImages:
    @pytest.mark.parametrize("count", [1, 3, 7, 14])
    def test_are_spread_over_the_classes(self, image_source, count):
        part = spread(image_source, count)
        keys = [part.key(i) for i in range(len(part))]
        assert len(set(keys)) == count
        assert keys == sorted(keys)
        assert len({key.split(b"/")[0] for key in keys}) == min(count, 3)
        where = {image_source.key(i): i for i in range(len(image_source))}
        for i, key in enumerate(keys):
            assert part.read(i) == image_source.read(where[key])
            assert part.label(i) == image_source.label(where[key])

    @pytest.mark.parametrize("count", [None, 15, 100])
    def test_all_of_them_are_the_source_itself(self, image_source, count):
        assert spread(image_source, count) is image_source

    @pytest.fixture
    def part(self, make_config, tmp_path):
        config = make_config(tmp_path / "store", max_images=6)
        return config, label(config).store

    def test_a_store_of_a_part(self, part, image_source, capsys):
        config, store = part
        assert len(store) == 6
        assert label(config).store.root_hash == store.root_hash  # resumes
        with pytest.raises(StoreMismatch):
            label(replace(config, max_images=7))
        with pytest.raises(StoreMismatch):
            label(replace(config, max_images=None))
        data = MultiCropDataset(image_source, store, crops_per_image=2, size=32)
        assert len(data) == 6
        main(["verify", config.out, "--images.root", config.images.root])
        assert "6 files are those that were labeled" in capsys.readouterr().out
        main(["view", config.out, "--images.root", config.images.root])

    def test_students_train_from_it(self, part, tmp_path):
        config, _ = part
        result = train(
            TrainConfig(
                out=str(tmp_path / "run"),
                images=config.images,
                store=config.out,
                student=StudentConfig(name="test_resnet", input_size=32),
                crops_per_image=1,
                epochs=2,
                batch_size=3,
                device="cpu",
                num_workers=0,
            )
        )
        assert result.num_steps == 4

    def test_more_images_than_an_ordinary_store_are_still_refused(
        self, make_images, make_store, tmp_path, image_folder
    ):
        few = make_images(tmp_path / "few", per_class=2)
        store = make_store(tmp_path / "store", open_source(ImagesConfig(root=str(few))))
        source = open_source(ImagesConfig(root=str(image_folder)))
        assert labeled_part(source, store) is source

    def test_missing_images_are_found(self, part, make_images, tmp_path):
        config, store = part
        root = make_images(tmp_path / "other")
        os.remove(root / os.fsdecode(next(iter(store))))
        source = open_source(ImagesConfig(root=str(root)))
        with pytest.raises(StoreMismatch, match="labeled but not there"):
            MultiCropDataset(source, LabelStore.open(config.out), crops_per_image=1)


def test_plan_tells_how_crops_and_epochs_go_together(make_config, tmp_path, capsys):
    config = make_config(tmp_path / "store")
    teacher = config.teacher
    main(
        [
            "plan",
            "--images.root",
            config.images.root,
            "--out",
            "x",
            "--num_crops",
            "8",
            "--teacher.name",
            teacher.name,
            "--teacher.checkpoint",
            teacher.checkpoint,
            "--teacher.input_size",
            "32",
            "--max_images",
            "3",
        ]
    )
    printed = " ".join(capsys.readouterr().out.split())
    assert "M = 8, epochs = 8: every crop once" in printed
    assert "3 x 8 crops" in printed
