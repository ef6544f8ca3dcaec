"""Imports that are stopped on the way."""

import pytest


class Stop(Exception):
    pass


@pytest.fixture
def stop_after():
    """Run an import, which is given its progress callback, and stop it after so many images."""

    def run(images: int, begin) -> None:
        left = [images]

        def progress(num_images):
            left[0] -= num_images
            if left[0] <= 0:
                raise Stop

        with pytest.raises(Stop):
            begin(progress)

    return run
