"""Are the images of a store still the files that were labeled?

Every file is read and its CRC-32 compared, so nothing that was replaced is missed: neither a file
of the same length nor one with its old date. It costs one reading of the files, and no decoding.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, pairwise

import numpy as np

from fkd.data.ahead import look_ahead
from fkd.data.identity import is_labeled_file
from fkd.data.joining import join_store
from fkd.data.sources import ImageSource, fingerprint
from fkd.errors import CropMismatch, ImageError, StoreError
from fkd.labeling.ranks import World
from fkd.store import LABELED, LabelStore
from fkd.store.config import StoreConfig

_SHOWN = 3
_CHUNK = 256  # images whose facts are read at a time


def check_images(
    store: LabelStore,
    source: ImageSource,
    progress: Callable[[int], None] = lambda num_images: None,
    *,
    allow_missing: bool = False,
) -> list[str]:
    """Join a store with its images, and compare the checksum of every image file.

    Args:
        store: the labels.
        source: the images.
        progress: called with the number of images that were just compared.
        allow_missing: whether the source may lack images of the store; see `join_store`.

    Returns:
        What to say of images that it lacks, a sentence each.

    Raises:
        StoreMismatch: images are missing, extra or renamed.
        CropMismatch: files were changed since they were labeled, or cannot be read any more.
    """
    join = join_store(source, store, allow_missing=allow_missing)
    changed = find_changed_images(
        store, source, range(len(source)), rows=join.rows, progress=progress
    )
    if changed:
        raise CropMismatch(
            f"{len(changed)} of {len(source)} image files are not those that were labeled, the "
            f"first: {_names(source, changed)}; restore the originals, or label them again by the "
            "command that made the store with --repair"
        )
    return join.remarks


def find_changed_images(
    store: LabelStore,
    source: ImageSource,
    positions: range,
    *,
    rows: np.ndarray,
    workers: int = 1,
    progress: Callable[[int], None] = lambda num_images: None,
) -> list[int]:
    """Positions of image files that are not those that were labeled, or cannot be read any more.

    Args:
        store: the labels.
        source: the images.
        positions: of those to compare; images that were unreadable when labeled are left out.
        rows: of the store, for each image of the source, int64 (len(source),).
        workers: threads that read.
        progress: called with the number of images that were just compared.

    Raises:
        DamagedStore: what the store knows of such an image differs from its checksum.
    """
    changed: list[int] = []
    with ThreadPoolExecutor(workers) as pool:
        for first in range(positions.start, positions.stop, _CHUNK):
            chunk = range(first, min(first + _CHUNK, positions.stop))
            facts = store.images(rows[chunk], check=False)
            labeled = np.flatnonzero(facts.status == LABELED).tolist()
            read = look_ahead(
                pool, partial(_fingerprint, source), (chunk[j] for j in labeled), 2 * workers
            )
            changed += [
                chunk[j]
                for j, found in zip(labeled, read, strict=True)
                if not is_labeled_file(facts, j, *found)
            ]
            progress(len(chunk))
    store.images(rows[changed])  # whether it is the store that has changed
    return changed


def find_changed_shards(
    out: str, config: StoreConfig, source: ImageSource, world: World, workers: int
) -> tuple[list[int], str]:
    """Committed shards of images that were changed since; every process looks at some of them.

    Args:
        out: folder of the store, which may be missing, unfinished or another one.
        config: the identity of the store; of another one, nothing is compared.
        source: the images.
        world: the processes of the run.
        workers: threads that read.

    Returns:
        Numbers of the shards, and how many images of which names there are, for a message.
    """
    changed: list[int] = []
    store = _open_same(out, config)
    if store is not None:
        rows = np.arange(len(source))  # the keys of the two are the same
        for positions in store.committed[world.rank :: world.size]:
            changed += find_changed_images(store, source, positions, rows=rows, workers=workers)
    everywhere = sorted(chain.from_iterable(world.gather(changed)))
    shards = sorted({row // config.images_per_shard for row in everywhere})
    if not shards:
        return [], ""
    numbers = f"shard{'s' if len(shards) > 1 else ''} {_ranges(shards)}"
    return shards, f"{len(everywhere)} ({_names(source, everywhere)}; {numbers})"


def _open_same(out: str, config: StoreConfig) -> LabelStore | None:
    """The store, if there is one of this identity; what is wrong with it, the writer says."""
    try:
        store = LabelStore.open(out, partial=True)
    except StoreError:
        return None
    return store if store.config_id == config.config_id else None


def _names(source: ImageSource, rows: Sequence[int]) -> str:
    more = ", ..." if len(rows) > _SHOWN else ""
    return ", ".join(source.name(row) for row in rows[:_SHOWN]) + more


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers in short.

    Example:
        >>> _ranges([0, 2, 3, 4, 9])
        '0, 2-4, 9'
    """
    starts = [numbers[0], *(b for a, b in pairwise(numbers) if b != a + 1)]
    stops = [*(a for a, b in pairwise(numbers) if b != a + 1), numbers[-1]]
    pairs = zip(starts, stops, strict=True)
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in pairs)


def _fingerprint(source: ImageSource, i: int) -> tuple[int, int]:
    """Checksum and length of an image file; an impossible one where it cannot be read."""
    try:
        return fingerprint(source.read(i))
    except ImageError:
        return -1, -1
