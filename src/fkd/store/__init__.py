"""The label store: a folder of crops and their soft labels with checksums. See README.md."""

from fkd.store.canonical import keys_digest
from fkd.store.config import form_members
from fkd.store.content import LABELED, UNREADABLE, ImageFacts, LabeledCrops, LabeledImage
from fkd.store.convert import Conversion, convert_store
from fkd.store.join import join_images
from fkd.store.presence import NOT_HERE
from fkd.store.reader import LabelStore
from fkd.store.sizes import predict_num_bytes
from fkd.store.verify import Problem, repair_store, set_shards_aside, verify_store
from fkd.store.writer import StoreWriter, require_own_folder

__all__ = [
    "LABELED",
    "NOT_HERE",
    "UNREADABLE",
    "Conversion",
    "ImageFacts",
    "LabelStore",
    "LabeledCrops",
    "LabeledImage",
    "Problem",
    "StoreWriter",
    "convert_store",
    "form_members",
    "join_images",
    "keys_digest",
    "predict_num_bytes",
    "repair_store",
    "require_own_folder",
    "set_shards_aside",
    "verify_store",
]
