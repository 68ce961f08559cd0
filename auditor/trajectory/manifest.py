"""What a trajectory consists of: the numbers that define the training, and the files that are complete."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from auditor.storage import RunFolder

MANIFEST = "trajectory/manifest.json"
BATCHES = "trajectory/batches"
SIGNALS = "trajectory/signals"
CHECKPOINTS = "trajectory/checkpoints"


@dataclass(frozen=True)
class Segment:
    """The steps between two checkpoints and the ledger files that hold them."""

    first_step: int
    end_step: int
    """One past the last step."""
    batches: tuple[str, ...]
    """File names under trajectory/batches, one a rank that had micro-batches."""
    signals: tuple[str, ...]
    """File names under trajectory/signals."""


@dataclass(frozen=True)
class Manifest:
    """`trajectory/manifest.json`: it names only what is complete."""

    rows: int
    """Training rows."""
    steps: int
    """Steps of the whole training."""
    epochs: int
    steps_per_epoch: int
    batch_size: int
    micro_batch_size: int
    optimizer: dict[str, Any]
    perturbation: dict[str, Any]
    seed: int
    checkpoint_steps: tuple[int, ...]
    """Planned checkpoints, each the state before that step; ascending, 0 and `steps` included."""
    world_size: int = 1
    """Workers of the latest attempt."""
    status: str = "running"
    """`running` or `complete`."""
    seconds: float = 0.0
    """Training time of all attempts, in seconds, work lost to failures apart."""
    checkpoints: tuple[int, ...] = ()
    """Steps whose checkpoint is complete."""
    segments: tuple[Segment, ...] = field(default=())
    """Complete segments, in order."""

    @property
    def micro_batches(self) -> int:
        """J, micro-batches a step."""
        return self.batch_size // self.micro_batch_size

    @property
    def complete(self) -> bool:
        """Whether training has ended."""
        return self.status == "complete"

    def same_training(self, other: Manifest) -> bool:
        """Whether both describe one training, however far it is and on however many workers."""
        return _definition(self) == _definition(other)

    def write(self, run: RunFolder) -> None:
        """Put it in place."""
        run.write_json(MANIFEST, asdict(self))

    @classmethod
    def read(cls, run: RunFolder) -> Manifest | None:
        """The manifest of a run folder, or None before training has begun.

        Raises:
            InputError: It was written by a newer release.
        """
        if not run.exists(MANIFEST):
            return None
        raw = dict(run.read_json(MANIFEST))
        raw.pop("format_version", None)
        segments = tuple(
            Segment(**{**segment, "batches": tuple(segment["batches"]), "signals": tuple(segment["signals"])})
            for segment in raw.pop("segments")
        )
        for key in ("checkpoint_steps", "checkpoints"):
            raw[key] = tuple(raw[key])
        return cls(**raw, segments=segments)


def spread_checkpoints(steps: int, count: int) -> tuple[int, ...]:
    """Steps of `count` checkpoints spread evenly over training, 0 and `steps` included; fewer if steps are fewer."""
    return tuple(sorted({round(index * steps / (count - 1)) for index in range(count)}))


def checkpoint_folder(step: int) -> str:
    """Folder of the checkpoint that holds the state before step `step`."""
    return f"{CHECKPOINTS}/step-{step:08d}"


def _definition(manifest: Manifest) -> Manifest:
    return replace(manifest, world_size=1, status="", seconds=0.0, checkpoints=(), segments=())
