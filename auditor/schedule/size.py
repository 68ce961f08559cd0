"""How large the workers are that an audit needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from auditor.sections.running import Resources

_CPUS = 4
_GIB_PER_CPU = 4
_SHARED = 0.35
"""Ray's object store takes 0.3 of a pod's memory, in shared memory."""


@dataclass(frozen=True)
class Size:
    """Pods of one group."""

    cpus: int
    gpus: int
    most: int
    """Pods at the same time."""

    @property
    def kind(self) -> str:
        """The group's name."""
        return "gpu" if self.gpus else "cpu"

    @property
    def memory_gib(self) -> int:
        """Memory of a pod."""
        return self.cpus * _GIB_PER_CPU

    @property
    def shared_gib(self) -> int:
        """Of this, shared memory at most."""
        return math.ceil(self.memory_gib * _SHARED)


def size_of(resources: Resources) -> Size:
    """Pods that together hold an audit's workers, with a CPU left in each for reading and writing.

    Several workers share a pod where four CPUs, or one GPU, have room for them.
    """
    gpus = math.ceil(resources.gpus_per_worker)
    if gpus:
        together = max(1, math.floor(gpus / resources.gpus_per_worker))
    else:
        together = max(1, (_CPUS - 1) // resources.cpus_per_worker)
    everybody = max(resources.train_workers, resources.score_actors)
    cpus = max(_CPUS, together * resources.cpus_per_worker + 1)
    return Size(cpus, gpus, math.ceil(everybody / together))
