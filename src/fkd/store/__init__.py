"""The label store: a folder of crops and their soft labels that can be trusted. See README.md."""

from fkd.store.agreement import Agreement
from fkd.store.convert import Conversion, compact_members, convert_store
from fkd.store.join import JoinReport
from fkd.store.keys import keys_digest
from fkd.store.reader import LabelStore
from fkd.store.sizes import predict_num_bytes
from fkd.store.stored import LABELED, UNREADABLE, ImageFacts, LabeledCrops, LabeledImage
from fkd.store.verify import Problem, repair_store, verify_store
from fkd.store.writer import StoreWriter

__all__ = [
    "LABELED",
    "UNREADABLE",
    "Agreement",
    "Conversion",
    "ImageFacts",
    "JoinReport",
    "LabelStore",
    "LabeledCrops",
    "LabeledImage",
    "Problem",
    "StoreWriter",
    "compact_members",
    "convert_store",
    "keys_digest",
    "predict_num_bytes",
    "repair_store",
    "verify_store",
]
