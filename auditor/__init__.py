"""Distributed data auditing for image classifiers trained with Sharpness-Aware Minimization.

Every command is a function here: ``auditor.run(auditor.load_config("audit.yaml"))``. Names load on first use, so
that ``auditor.sam``, ``auditor.models`` and ``auditor.influence`` need torch only.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from auditor.config import Config, load_config, parse_config
    from auditor.data import Dataset, Samples
    from auditor.errors import InputError, StageError
    from auditor.pipeline import open_run, prepare, report, run, score, train
    from auditor.plan import Plan, plan
    from auditor.sam import State
    from auditor.storage import RunFolder
    from auditor.trajectory import Manifest, TrajectoryReader, TrajectoryRecorder

_HOMES = {
    "auditor.config": ("Config", "load_config", "parse_config"),
    "auditor.data": ("Dataset", "Samples"),
    "auditor.errors": ("InputError", "StageError"),
    "auditor.pipeline": ("open_run", "prepare", "report", "run", "score", "train"),
    "auditor.plan": ("Plan", "plan"),
    "auditor.sam": ("State",),
    "auditor.storage": ("RunFolder",),
    "auditor.trajectory": ("Manifest", "TrajectoryReader", "TrajectoryRecorder"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Config",
    "Dataset",
    "InputError",
    "Manifest",
    "Plan",
    "RunFolder",
    "Samples",
    "StageError",
    "State",
    "TrajectoryReader",
    "TrajectoryRecorder",
    "load_config",
    "open_run",
    "parse_config",
    "plan",
    "prepare",
    "report",
    "run",
    "score",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("auditor")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'auditor' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
