"""`merge`: one store out of the shards that several machines have labeled without a common folder.

machine 1    fkd label ... --shards 1/2 --out part1
machine 2    fkd label ... --shards 2/2 --out part2
anywhere     fkd merge part1 part2 --images.root ... --out labels
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fkd.data.sources import ImagesConfig, ImageSource, open_source
from fkd.data.subset import MEMBER, spread
from fkd.errors import StoreMismatch
from fkd.labeling.run import finish_store
from fkd.store import LabelStore, StoreWriter, keys_digest
from fkd.store.join import describe_difference
from fkd.store.merge import Part, copy_shards, read_part, require_whole_set


@dataclass(frozen=True)
class MergeResult:
    """A joined store.

    Attributes:
        store: the store, open.
        remarks: what the user may want to know of its parts, a sentence each.
    """

    store: LabelStore
    remarks: list[str]


def merge(
    parts: Sequence[str],
    out: str,
    images: ImagesConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> MergeResult:
    """Join shards into one store, or resume; every shard is compared with its checksum.

    Args:
        parts: folders that `fkd label --shards` has written; together they have all shards.
        out: folder of the store.
        images: the images that were labeled; pixels of some crops are kept in the store.
        progress: called with the bytes that were copied so far, and all bytes to copy.

    Raises:
        ConfigError: there is no part.
        StoreMismatch: the parts are not of one store, or the images are not those of it.
        MissingLabel: no part has some of the shards.
        CropMismatch: an image was changed since it was labeled.
        StoreError: a part is damaged, or the store cannot be written.
    """
    read = [read_part(part) for part in parts]
    require_whole_set(read)
    source = _require_images(read, images)
    noted = [part for part in read if part.environment]
    with StoreWriter.open(out, read[0].config.source) as writer:
        pending = set(writer.pending())
        sizes = {e.number: e.num_bytes for part in read for e in part.entries}
        total = sum(size for number, size in sizes.items() if number in pending)
        done = 0

        def copied(num_bytes: int) -> None:
            nonlocal done
            done += num_bytes
            progress(done, total)

        copy_shards(read, writer, copied)
        finish_store(writer, source, noted[0].environment if noted else {})
    return MergeResult(LabelStore.open(out), _describe_environments(read, noted))


def _require_images(parts: Sequence[Part], images: ImagesConfig) -> ImageSource:
    config = parts[0].config
    max_images = config.source.get(MEMBER)
    source = spread(open_source(images), max_images if isinstance(max_images, int) else None)
    keys = [source.key(i) for i in range(len(source))]
    if keys_digest(keys) != config.keys_sha256:
        labeled = {key for part in parts for key in LabelStore.open(part.path, partial=True)}
        raise StoreMismatch(
            f"images.root: {source.root} does not hold the images that {parts[0].path} is a part "
            f"of the labels of: {describe_difference(sorted(labeled), keys)}; give the images that "
            "were labeled, all of them and no others, from where they were labeled and with the "
            "same images.subset if there was one"
        )
    return source


def _describe_environments(parts: Sequence[Part], noted: Sequence[Part]) -> list[str]:
    """That parts were made by different hardware or libraries: the store notes those of the first.

    Last bits of labels may differ then, as they would if one machine had resumed another's run.

    Args:
        parts: all of them.
        noted: those that say what made them.
    """
    unknown = [
        f"{part.path} does not say which libraries and hardware labeled it: its run was stopped; "
        "the command that made it notes them"
        for part in parts
        if not part.environment
    ]
    return unknown + [
        f"{part.path} was labeled by other libraries or hardware than {noted[0].path}, whose the "
        "store notes; last bits of its labels may differ from those of a single machine"
        for part in noted[1:]
        if part.environment != noted[0].environment
    ]
