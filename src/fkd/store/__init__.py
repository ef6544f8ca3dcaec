"""The label store: a folder of crops and their soft labels that can be trusted. See README.md."""

from fkd.store.agreement import Agreement
from fkd.store.content import LABELED, UNREADABLE, ShardContent
from fkd.store.convert import Conversion, compact_members, convert_store
from fkd.store.join import JoinReport
from fkd.store.keys import keys_digest
from fkd.store.reader import LabelStore
from fkd.store.sizes import predict_num_bytes
from fkd.store.stored import Entry, ImageFacts, StoredCrops
from fkd.store.verify import Problem, repair_store, verify_store
from fkd.store.writer import StoreWriter

__all__ = [
    "LABELED",
    "UNREADABLE",
    "Agreement",
    "Conversion",
    "Entry",
    "ImageFacts",
    "JoinReport",
    "LabelStore",
    "Problem",
    "ShardContent",
    "StoreWriter",
    "StoredCrops",
    "compact_members",
    "convert_store",
    "keys_digest",
    "predict_num_bytes",
    "repair_store",
    "verify_store",
]
