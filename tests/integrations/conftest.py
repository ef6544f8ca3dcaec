"""A folder in which the scripts of the pages run."""

import pytest


@pytest.fixture
def folder(tmp_path, image_folder, label_store):
    """Labels and photos where the scripts look for them."""
    (tmp_path / "labels").symlink_to(label_store.path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "train").symlink_to(image_folder)
    return tmp_path


@pytest.fixture
def dataset(image_folder, label_store):
    """15 images with 2 of 6 crops."""
    from fkd import MultiCropDataset

    return MultiCropDataset(image_folder, label_store, crops_per_image=2, size=32)
