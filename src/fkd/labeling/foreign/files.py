"""Which file has the labels of which image: by folder and stem, or by position.

That is the only link there is. What a store then says of the images (checksums, sizes) describes
the files as they are now.
"""

import os
from collections.abc import Sequence

from fkd.data.folder import read_regular_file
from fkd.data.sources import ImageSource
from fkd.errors import ConfigError, FormatError, ImageError, MissingLabel
from fkd.store.canonical import printable

_SHOWN = 3


def find_by_stem(
    source: ImageSource, root: str, suffix: str, levels: Sequence[str] = ("",)
) -> list[str]:
    """The file of each image, FOLDER/STEM.SUFFIX for an image FOLDER/STEM.EXTENSION.

    Args:
        source: the images.
        root: folder of the label files.
        suffix: their ending.
        levels: folders below the root in which FOLDER may lie; the first that has any counts.

    Raises:
        ConfigError: the root is no folder, or two images share a file.
        MissingLabel: a file is not there.
    """
    _require_folder(root)
    owner: dict[bytes, int] = {}
    for i in range(len(source)):
        stem = os.path.splitext(source.key(i))[0]
        if stem in owner:
            raise ConfigError(
                f"labels: {source.name(owner[stem])} and {source.name(i)} would share the labels "
                f"in {printable(stem)}{suffix}; remove one of the images"
            )
        owner[stem] = i
    names = [os.fsdecode(stem) + suffix for stem in owner]
    folders = [os.path.join(root, level) for level in levels]
    found = [folder for folder in folders if any_exists(folder, names)]
    return _require_all([os.path.join((found or folders)[0], name) for name in names])


def find_by_position(source: ImageSource, root: str, suffix: str) -> list[str]:
    """The file of each image, N.SUFFIX for the N-th one of torchvision's ImageFolder.

    Raises:
        ConfigError: the root is no folder, or the images are not those of an ImageFolder.
        MissingLabel: a file is not there.
    """
    _require_folder(root)
    positions = positions_in_folder(source)
    return _require_all([os.path.join(root, f"{position}{suffix}") for position in positions])


def positions_in_folder(source: ImageSource) -> list[int]:
    """The position of each image in torchvision's ImageFolder of the same folder.

    It goes by class, then by folder, then by name; our keys are whole paths, which is another order
    where the name of one class begins with that of another ("cat", "cat-like").

    Raises:
        ConfigError: an image lies in no class folder, or ImageFolder would leave it out.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    places: list[tuple[str, str, str]] = []
    for i in range(len(source)):
        path = os.fsdecode(source.key(i))
        folder, _, name = path.rpartition("/")
        if not folder or not name.lower().endswith(IMG_EXTENSIONS):
            raise ConfigError(
                f"labels: those of ml-dr are numbered as torchvision's ImageFolder numbers images, "
                f"which would not have {source.name(i)}; give the folder of classes that they were "
                "made of, with the same files"
            )
        places.append((folder.partition("/")[0], folder, name))
    order = sorted(range(len(places)), key=places.__getitem__)
    positions = [0] * len(order)
    for position, i in enumerate(order):
        positions[i] = position
    return positions


def any_exists(folder: str, names: Sequence[str]) -> bool:
    """Whether a folder has any of these files."""
    return os.path.isdir(folder) and any(os.path.exists(os.path.join(folder, n)) for n in names)


def read_label_file(path: str) -> bytes:
    """The bytes of a label file.

    Raises:
        FormatError: it cannot be read, or is no regular file.
    """
    try:
        return read_regular_file(os.fsencode(path), path)
    except ImageError as error:  # the same reading, of another kind of file
        raise FormatError(f"{error}") from error


def _require_folder(root: str) -> None:
    if not os.path.isdir(root):
        raise ConfigError(f"labels: {root} is no folder; give the folder of the label files")


def _require_all(paths: list[str]) -> list[str]:
    missing = [path for path in paths if not os.path.exists(path)]
    if missing:
        raise MissingLabel(
            f"{len(missing)} of {len(paths)} images have no labels, the first: "
            f"{', '.join(missing[:_SHOWN])}; get these, or import fewer images"
        )
    return paths
