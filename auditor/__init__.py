"""Distributed data auditing for image classifiers trained with Sharpness-Aware Minimization.

Every command is a method of `Audit`: ``auditor.Audit.from_yaml("audit.yaml").run()``. Names load on first use, so
that ``auditor.sam``, ``auditor.models`` and ``auditor.influence`` need torch only.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from auditor.audit import Audit
    from auditor.config import Config, load_config, parse_config
    from auditor.data import Dataset, Samples
    from auditor.errors import InputError, StageError
    from auditor.sam import State
    from auditor.storage import RunFolder
    from auditor.trajectory import Manifest, TrajectoryReader, TrajectoryRecorder

_HOME_OF = {
    "Audit": "auditor.audit",
    "Config": "auditor.config",
    "Dataset": "auditor.data",
    "InputError": "auditor.errors",
    "Manifest": "auditor.trajectory",
    "RunFolder": "auditor.storage",
    "Samples": "auditor.data",
    "StageError": "auditor.errors",
    "State": "auditor.sam",
    "TrajectoryReader": "auditor.trajectory",
    "TrajectoryRecorder": "auditor.trajectory",
    "load_config": "auditor.config",
    "parse_config": "auditor.config",
}

__all__ = [
    "Audit",
    "Config",
    "Dataset",
    "InputError",
    "Manifest",
    "RunFolder",
    "Samples",
    "StageError",
    "State",
    "TrajectoryReader",
    "TrajectoryRecorder",
    "load_config",
    "parse_config",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("auditor")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'auditor' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
