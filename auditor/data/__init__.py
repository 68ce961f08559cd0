"""The audit table: its sources, decoding, seeded splits, noise and augmentation, and the snapshot that is audited."""

from auditor.data.augmentation import augment
from auditor.data.dataset import Dataset
from auditor.data.decode import CorruptImageError, decode_column, decode_image, normalise
from auditor.data.peek import Peek, peek
from auditor.data.prepare import count_rows, prepare
from auditor.data.query import query_name, query_rows
from auditor.data.samples import Samples, inputs_of_batch
from auditor.data.splits import SPLITS, SplitName

__all__ = [
    "SPLITS",
    "CorruptImageError",
    "Dataset",
    "Peek",
    "Samples",
    "SplitName",
    "augment",
    "count_rows",
    "decode_column",
    "decode_image",
    "inputs_of_batch",
    "normalise",
    "peek",
    "prepare",
    "query_name",
    "query_rows",
]
