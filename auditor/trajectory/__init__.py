"""The ledger of a training run."""

from auditor.trajectory.manifest import Manifest, spread_checkpoints
from auditor.trajectory.reader import TrajectoryReader
from auditor.trajectory.recorder import TrajectoryRecorder

__all__ = ["Manifest", "TrajectoryReader", "TrajectoryRecorder", "spread_checkpoints"]
