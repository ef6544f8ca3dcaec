"""What a store says about how it was made: teachers, decoder, numerics, libraries and canaries.

The layout of a store does not depend on these members, and a store of another program may lack
some. Their values are those of that program, so they become checked values here, when the store is
opened: an absent member is None (or empty), and a member of another kind is refused.
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from fkd.crops.sampling import GENERATOR
from fkd.errors import FormatError
from fkd.labels.projection import Projection
from fkd.store.canonical import Fields

INTERPOLATIONS = ("bilinear", "bicubic")  # those of `fkd.crops.replay`, which needs torchvision
MAX_TEACHERS = 64
MAX_INPUT_SIDE = 2048  # pixels
MAX_CANARIES = 256  # each costs an image to check
MAX_FEATURES = 1 << 24
SIGNS = "signs"  # what the entries of a projection are
_MAX_THUMBNAIL_BYTES = 1 << 14
_AUTOCASTS = ("bf16", "fp16")


@dataclass(frozen=True)
class TeacherFacts:
    """What is known of one teacher.

    Attributes:
        name: of its network; None where the store does not say, as all below.
        input_size: side of its input, pixels.
        interpolation: "bilinear" or "bicubic", how its crops were resized.
        license: of its weights.
        standardization: mean and length of its embeddings, beside those of other teachers.
    """

    name: str | None
    input_size: int | None
    interpolation: str | None
    license: str | None = None
    standardization: tuple[float, float] | None = None


@dataclass(frozen=True)
class Provenance:
    """What the config says of the making of the labels.

    Attributes:
        teachers: one or several; none of imported maps.
        decoder: of the images; None where it does not say.
        autocast: "bf16" or "fp16"; None for exact labels.
        projection: of the teacher's features before they were stored; None where there is none.
    """

    teachers: tuple[TeacherFacts, ...]
    decoder: dict[str, Any] | None
    autocast: str | None
    projection: Projection | None = None


@dataclass(frozen=True)
class Libraries:
    """What made the store, as far as the last bits of pixels depend on it; None where unknown."""

    torch: str | None
    cpu: str | None


UNKNOWN_LIBRARIES = Libraries(None, None)


@dataclass(frozen=True)
class Canary:
    """One crop as it entered the teacher.

    Attributes:
        row: of its image.
        crop: its number; of label maps it says nothing.
        sha256: of its pixels, 64 hexadecimal digits.
        thumbnail: its pixels at a small size, bytes.
    """

    row: int
    crop: int
    sha256: str
    thumbnail: bytes

    def in_manifest(self) -> dict[str, Any]:
        """This canary's item of the manifest's list."""
        return {
            "crop": self.crop,
            "row": self.row,
            "sha256": self.sha256,
            "thumbnail": base64.b64encode(self.thumbnail).decode("ascii"),
        }


def parse_provenance(fields: Fields, file: str) -> Provenance:
    """What a config says of the making of its labels; `file` is named in errors.

    Raises:
        FormatError: a member is there and is not what it should be.
    """
    teachers = fields.items("teachers") if "teachers" in fields else []
    if len(teachers) > MAX_TEACHERS:
        raise FormatError(f"{file} names {len(teachers)} teachers; a store allows {MAX_TEACHERS}")
    return Provenance(
        teachers=tuple(
            _parse_teacher(Fields(item, f"{file}: teachers.{i}")) for i, item in enumerate(teachers)
        ),
        decoder=fields.members("decoder") if "decoder" in fields else None,
        autocast=_parse_autocast(fields, file),
        projection=_parse_projection(fields, file),
    )


def _parse_teacher(fields: Fields) -> TeacherFacts:
    return TeacherFacts(
        name=fields.text("name") if "name" in fields else None,
        input_size=(
            fields.integer("input_size", 1, MAX_INPUT_SIDE) if "input_size" in fields else None
        ),
        interpolation=(
            fields.choice("interpolation", INTERPOLATIONS) if "interpolation" in fields else None
        ),
        license=fields.text("license") if "license" in fields else None,
        standardization=_parse_standardization(fields),
    )


def _parse_standardization(fields: Fields) -> tuple[float, float] | None:
    if "standardization" not in fields:
        return None
    mean, length = fields.pair("standardization")
    if not length > 0:
        raise fields.odd("standardization", "a mean, and a length above 0")
    return mean, length


def _parse_autocast(fields: Fields, file: str) -> str | None:
    if "numerics" not in fields:
        return None
    numerics = fields.members("numerics")
    if numerics.get("autocast") is None:
        return None
    return Fields(numerics, f"{file}: numerics").choice("autocast", _AUTOCASTS)


def _parse_projection(fields: Fields, file: str) -> Projection | None:
    if "projection" not in fields:
        return None
    if "outputs" not in fields or fields.text("outputs") != "features":
        fields.absent("projection", "for classes")
    members = Fields(fields.members("projection"), f"{file}: projection")
    members.exactly("entries", "generator", "num_features", "seed")
    members.choice("generator", (GENERATOR,))
    members.choice("entries", (SIGNS,))
    dims = fields.integer("num_classes", 1, MAX_FEATURES)
    return Projection(
        num_features=members.integer("num_features", dims, MAX_FEATURES),
        dims=dims,
        seed=members.integer("seed", -(1 << 63), (1 << 64) - 1),
    )


def projection_members(projection: Projection) -> dict[str, Any]:
    """The member `projection` of a config; its number of columns is `num_classes`."""
    return {
        "entries": SIGNS,
        "generator": GENERATOR,
        "num_features": projection.num_features,
        "seed": projection.seed,
    }


def parse_libraries(environment: dict[str, Any], file: str) -> Libraries:
    """What an environment says of torch and the type of CPU; its other members are not read.

    Raises:
        FormatError: a member is there and is not what it should be.
    """
    fields = Fields(environment, f"{file}: environment")
    packages = Fields(
        fields.members("packages") if "packages" in fields else {}, f"{file}: environment.packages"
    )
    return Libraries(
        torch=packages.text("torch") if "torch" in packages else None,
        cpu=fields.text("cpu") if "cpu" in fields else None,
    )


def parse_canaries(
    items: list[Any], num_images: int, num_crops: int, file: str
) -> tuple[Canary, ...]:
    """The canaries of a manifest.

    Args:
        items: as they are in the manifest.
        num_images: images in the store.
        num_crops: M.
        file: named in errors.

    Raises:
        FormatError: there are too many, or one is malformed or of a crop that is not there.
    """
    if len(items) > MAX_CANARIES:
        raise FormatError(f"{file} has {len(items):,} canaries; a store allows {MAX_CANARIES}")
    return tuple(
        _parse_canary(Fields(item, f"{file}: canaries.{i}"), num_images, num_crops)
        for i, item in enumerate(items)
    )


def _parse_canary(fields: Fields, num_images: int, num_crops: int) -> Canary:
    fields.exactly("crop", "row", "sha256", "thumbnail")
    return Canary(
        row=fields.integer("row", 0, num_images - 1),
        crop=fields.integer("crop", 0, num_crops - 1),
        sha256=fields.digest("sha256"),
        thumbnail=_parse_base64(fields, "thumbnail"),
    )


def _parse_base64(fields: Fields, name: str) -> bytes:
    text = fields.text(name)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):  # ValueError: not ASCII
        data = b""
    canonical = base64.b64encode(data).decode("ascii") == text
    if not canonical or len(data) > _MAX_THUMBNAIL_BYTES:
        raise fields.odd(name, f"up to {_MAX_THUMBNAIL_BYTES:,} bytes in base64")
    return data
