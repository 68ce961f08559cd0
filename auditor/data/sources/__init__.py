"""Where rows come from: the common protocol, and the choice of a source by configuration."""

from __future__ import annotations

from auditor.data.sources.base import IMAGE, Index, Source
from auditor.data.sources.digits import Digits
from auditor.data.sources.folder import Folder
from auditor.data.sources.parquet import ParquetTables
from auditor.data.sources.torchvision import Torchvision
from auditor.sections.data import Data, DigitsSource, FolderSource, ParquetSource

__all__ = ["IMAGE", "Index", "Source", "open_source"]


def open_source(data: Data) -> Source:
    """The source that a configuration names; what it needs is imported and opened when it is first read."""
    match data.source:
        case DigitsSource():
            return Digits()
        case ParquetSource():
            return ParquetTables(data.source, data.columns)
        case FolderSource():
            return Folder(data.source)
        case _:
            return Torchvision(data.source)
