"""How far an exact replay has come, kept between two segments so that one that is interrupted goes on from there."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from auditor.config import Config, deciding
from auditor.influence.replay import Cotangent
from auditor.storage import RunFolder
from auditor.trajectory import Manifest, group

PARTIAL = "replay/partial"
_MARKER = f"{PARTIAL}/partial.json"


@dataclass(frozen=True)
class PartialSweep:
    """A sweep between two segments: all it needs to go on."""

    first_step: int
    """Start of the segment that was swept last; `steps` before any was. Every step from here on is swept."""
    began: float
    """‖λ_T‖"""
    cotangent: Cotangent
    """Of the state before `first_step`."""
    gradient: Tensor
    """∂f/∂w [rows] so far, summed over all workers, on the CPU."""
    shorter: dict[float, Tensor]
    """The same by shorter horizon that has been passed."""
    drift: dict[int, float]
    """By checkpoint that was reached again."""


class PartialSweeps:
    """Keeps the latest partial sweep of one audit in its run folder.

    What belongs to another audit, that is, to other deciding settings or another training, counts for nothing.

    Args:
        config: The audit.
        run: Its run folder.
        manifest: Its training.
    """

    def __init__(self, config: Config, run: RunFolder, manifest: Manifest) -> None:
        self._run = run
        self._steps = manifest.steps
        described = json.dumps([deciding(config), asdict(manifest)], sort_keys=True)
        self._audit = hashlib.sha256(described.encode()).hexdigest()

    def first_step(self) -> int:
        """The first step that has been swept; `steps` when none has."""
        marker = self._marker()
        return self._steps if marker is None else int(marker["first_step"])

    def read(self, device: torch.device) -> PartialSweep | None:
        """What an interrupted sweep of this audit has kept, if anything; another audit's is removed. Collective.

        Raises:
            InputError: It was written by a newer release.
        """
        marker = group.from_first_rank(self._marker_or_nothing)
        if marker is None:
            return None
        tensors = safetensors.torch.load(self._run.read_bytes(f"{PARTIAL}/{marker['tensors']}"))

        def part(name: str) -> dict[str, Tensor]:
            # The file knows no order; states have that of the names, and norms round by it.
            return {key.removeprefix(name): tensors[key] for key in sorted(tensors) if key.startswith(name)}

        def placed(name: str) -> dict[str, Tensor]:
            return {key: value.to(device) for key, value in part(name).items()}

        return PartialSweep(
            first_step=marker["first_step"],
            began=float(tensors["began"]),
            cotangent=Cotangent(**{each.name: placed(f"{each.name}.") for each in fields(Cotangent)}),
            gradient=tensors["gradient"],
            shorter={float(horizon): value for horizon, value in part("gradient@").items()},
            drift={int(step): value for step, value in marker["drift"].items()},
        )

    def write(self, partial: PartialSweep) -> None:
        """Put it in the place of an earlier one; only the first worker does. The marker comes last."""
        tensors = {
            "began": torch.tensor(partial.began, dtype=torch.float64),
            "gradient": partial.gradient,
            **{f"gradient@{horizon!r}": value for horizon, value in partial.shorter.items()},
            **{f"{part}.{name}": value for part, some in partial.cotangent.parts() for name, value in some.items()},
        }
        # The file format knows neither strides nor shared memory.
        alone = {
            key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in tensors.items()
        }
        name = f"step-{partial.first_step:08d}.safetensors"
        self._run.write_bytes(f"{PARTIAL}/{name}", safetensors.torch.save(alone))
        marker = {
            "audit": self._audit,
            "first_step": partial.first_step,
            "tensors": name,
            "drift": {str(step): value for step, value in partial.drift.items()},
        }
        self._run.write_json(_MARKER, marker)
        kept = {f"{PARTIAL}/{name}", _MARKER}
        for other in self._run.names(PARTIAL, hidden=True):
            if f"{PARTIAL}/{other}" not in kept:
                self._run.remove(f"{PARTIAL}/{other}")

    def _marker(self) -> dict[str, Any] | None:
        if not self._run.exists(_MARKER):
            return None
        marker: dict[str, Any] = self._run.read_json(_MARKER)
        return marker if marker["audit"] == self._audit else None

    def _marker_or_nothing(self) -> dict[str, Any] | None:
        marker = self._marker()
        if marker is None:
            remove_partial(self._run)
        return marker


def remove_partial(run: RunFolder) -> None:
    """Remove what is kept; the marker first, since it declares the rest complete."""
    run.remove(_MARKER)
    run.remove(PARTIAL)
