"""The weights that a training starts from where its configuration names some: in the run folder before it begins.

initial/weights/         parameters and buffers, as a checkpoint
initial/initial.json     where they came from

Once they are here, it changes nothing that their source goes away or holds other weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from auditor.errors import InputError
from auditor.sam.state import State
from auditor.storage import RunFolder
from auditor.trajectory.checkpoint import load_state, save_state

INITIAL = "initial"
_FILE = "initial.json"
_WEIGHTS = "weights"


@dataclass(frozen=True)
class Initial:
    """`initial/initial.json`."""

    weights: str
    """`model.weights` of the configuration, without credentials."""
    source: str | None
    """Address of the checkpoint or file they were taken from, without credentials; None where they are seeded."""
    seeded: tuple[str, ...]
    """Tensors of the last layer that were not taken, and have seeded values."""
    reason: str | None
    """Why they were not."""
    fingerprint: str
    """See `fingerprint`."""

    @property
    def sentences(self) -> list[str]:
        """Where the weights come from, for a person."""
        if self.source is None:
            return ["starts from seeded weights: there is no audit before this one"]
        said = [f"starts from the weights in {self.source}"]
        if self.seeded:
            said.append(f"of the last layer {', '.join(self.seeded)} start from seeded values: {self.reason}")
        return said


def write_initial(run: RunFolder, state: State, initial: Initial) -> None:
    """Put the weights and where they came from into a run folder; a reader sees all of it or nothing.

    Args:
        run: The run folder.
        state: Its momentum is left out.
        initial: Where they came from.
    """
    aside = f".{INITIAL}"
    run.remove(aside)
    run.make(aside)
    save_state(run, f"{aside}/{_WEIGHTS}", State(state.parameters, {}, state.buffers))
    run.write_json(f"{aside}/{_FILE}", asdict(initial))
    run.replace(aside, INITIAL)


def read_initial(run: RunFolder) -> Initial | None:
    """Where the weights in a run folder came from; None where there are none.

    Raises:
        InputError: They are of a newer release.
    """
    if not run.exists(INITIAL):
        return None
    raw = run.read_json(f"{INITIAL}/{_FILE}")
    raw.pop("format_version", None)
    return Initial(**{**raw, "seeded": tuple(raw["seeded"])})


def load_initial(run: RunFolder) -> State:
    """The state before training, on the CPU: the weights in a run folder, and no momentum.

    Raises:
        InputError: There are none.
    """
    if not run.exists(INITIAL):
        raise InputError(f"{run}: holds no initial weights, which model.weights asks for; prepare first")
    found = load_state(run, f"{INITIAL}/{_WEIGHTS}")
    still = {name: torch.zeros_like(value) for name, value in found.parameters.items()}
    return State(found.parameters, still, found.buffers)


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 in hex of names, types, shapes and values."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        total.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
