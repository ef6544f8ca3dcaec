"""Fresh crops whose labels come from the label map of their image.

Boxes and flips are those of `FreshCropSource`: new ones at every position. The store knows the size
of an image, so boxes are placed, and labels pooled, before the image itself is read; the image is
then compared with the one that was labeled, as for stored crops.

Source: Re-labeling ImageNet (Yun et al., CVPR 2021), Sec. 3.2. A flip moves no label: a crop's
label has no position inside it.
"""

import numpy as np

from fkd.crops.augment import NO_AUGMENT, AugmentConfig, sample_augment
from fkd.crops.records import CropRecords
from fkd.crops.sampling import CropConfig, draw_crops, place_crops
from fkd.data.crop_sources import SelectedCrops, image_streams, rows_of
from fkd.data.identity import require_labeled_file
from fkd.data.sources import ImageSource, LoadedImage
from fkd.errors import ConfigError
from fkd.labels.pooling import pool_maps, roi_align_weights
from fkd.store import LabelStore


class MapCropSource:
    """New random crops at every position, and their labels pooled from a store of label maps.

    Args:
        images: of the store, or some of them.
        store: the maps.
        config: how crops are drawn.
        swap_xy: exchange the axes of boxes where labels are pooled.
        augment: further augmentations of the crops.
        rows: of the store, for each of the images, int64 (len(images),); by default they are found
            by their keys.

    Raises:
        ConfigError: the store holds crops instead of maps.
    """

    def __init__(
        self,
        images: ImageSource,
        store: LabelStore,
        config: CropConfig,
        augment: AugmentConfig = NO_AUGMENT,
        *,
        swap_xy: bool = False,
        rows: np.ndarray | None = None,
    ) -> None:
        if store.grid is None:
            raise ConfigError(
                f"store: {store.path} holds crops and no label maps; use method fkd, or make maps "
                "by `fkd label-maps`"
            )
        self._images = images
        self._store = store
        self._rows = rows_of(images, store) if rows is None else rows
        self._grid = store.grid
        self._config = config
        self._swap_xy = swap_xy
        self._augment = augment

    def select(self, images: np.ndarray, start: int, crops_per_image: int) -> SelectedCrops:
        """The maps are read at once; each image is checked when it is loaded."""
        numbers = np.arange(start, start + crops_per_image)
        streams = image_streams(self._images, images, self._config.seed)
        stored = self._store.read(self._rows[images])
        sizes = stored.images.size[:, None]
        box, flip = place_crops(self._config, draw_crops(streams[:, None], numbers), sizes)
        weights = roi_align_weights(box, sizes, self._grid, swap_xy=self._swap_xy)
        ids, values = stored.label.ids, stored.label.values
        assert ids is not None
        assert values is not None
        targets = pool_maps(ids, values, weights, self._store.num_classes)

        def records(j: int, loaded: LoadedImage) -> CropRecords:
            require_labeled_file(stored.images, j, loaded, self._images.name(int(images[j])))
            return CropRecords(box[j], flip[j], sample_augment(self._augment, streams[j], numbers))

        return SelectedCrops(targets, records)
