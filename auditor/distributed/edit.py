"""Weights without some samples: torch.distributed where there is a process group, no Ray in it.

    gif       θ_T + Σ_{k in S} Σ_c W_{k,c} ∇l_k(θ_c + ε_c)
    hif       θ_T + (J + (λ + damping) I)⁻¹ Σ_{k in S} ∂G/∂w_k, one solve for all of S
    replay    the last steps of training taken again without S, from a recorded checkpoint

Each is, to first order, what its own influence scores say: ⟨∇f(θ_T), the movement⟩ is their sum over S. Source of the
first two: "Attributing Data for Sharpness-Aware Minimization" (arXiv 2507.04059), signs as in `auditor.influence`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from auditor import counters
from auditor.config import Config
from auditor.distributed.division import share_of
from auditor.distributed.implicit import SYSTEMS, Solved, system_of
from auditor.distributed.objective import Objective
from auditor.distributed.retraining import Retraining
from auditor.distributed.scoring_inputs import exposures, perturbed_at, scaled_by, used_checkpoints
from auditor.distributed.task import Task
from auditor.distributed.trained_run import Chunks, TrainedRun
from auditor.fidelity.edit_files import (
    OUTCOME_SCHEMA,
    RECORDED,
    RETRAIN,
    Asked,
    Weights,
    read_removal,
    weights_folder,
    write_weights,
)
from auditor.influence import Point, sample_logits, weighted_gradient
from auditor.influence.ekfac import EKFAC
from auditor.influence.hif import System, flatten, unflatten
from auditor.influence.solvers import SOLVERS, UnsolvableError
from auditor.sam import State, Tensors
from auditor.sam.step import margin
from auditor.storage import RunFolder
from auditor.trajectory import TrajectoryReader, group
from auditor.trajectory.checkpoint import save_state

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Movement:
    """Where θ goes."""

    parameters: Tensors
    solved: dict[str, Any] | None = None


def edit(config: Config, run: RunFolder, device: torch.device, progress: Progress = lambda _: None) -> str | None:
    """Find the weights that `edits/asked.json` asks for and that are not there yet.

    Collective: every worker of a process group calls it; alone it works by itself.

    Args:
        config: The audit.
        run: Its run folder, training complete.
        device: This worker's device.
        progress: Told the number of steps done, or work like them, on the first rank.

    Returns:
        None when all of them are in the run folder, or in one sentence why not; the same on every worker.

    Raises:
        StageError: Training has not ended.
    """
    asked: Asked = group.from_first_rank(lambda: Asked.read(run))
    missing = group.from_first_rank(lambda: asked.missing(run))
    editor = _Editor(TrainedRun(config, run, device), asked.key, read_removal(run, asked.key).rows)
    done = 0
    for method in missing:
        units = _units(config, editor.trained.reader, method, asked.methods[method])
        began = time.monotonic()
        found = editor.state(method, asked.methods[method], partial(_from, done, progress))
        if isinstance(found, str):
            return f"edit: {method} {found}"
        state, solved = found
        seconds = round(time.monotonic() - began, 3)
        if not all(bool(value.isfinite().all()) for value in state.parameters.values()):
            return f"edit: {method} gave weights that are not finite"
        if method != RECORDED:
            save_state(run, weights_folder(asked.key, method), state)
        if group.rank() == 0:
            outcome, loss = editor.outcome(state)
            weights = Weights(asked.methods[method], seconds, loss if math.isfinite(loss) else None, solved)
            write_weights(run, asked.key, method, outcome, weights)
        done += units
        progress(done)
    return None


class _Editor:
    """A finished training and the rows to be left out of it."""

    def __init__(self, trained: TrainedRun, key: str, rows: tuple[int, ...]) -> None:
        self.trained, self.key = trained, key
        self.rows = np.array(rows, dtype=np.int64)
        self.final = trained.state(trained.manifest.steps)

    def state(
        self, method: str, settings: Mapping[str, Any], progress: Progress
    ) -> tuple[State, dict[str, Any] | None] | str:
        """The state that a method finds, and how it solved for it; or why it finds none. Collective."""
        if method == RECORDED:
            return self.final, None
        if method in (RETRAIN, "replay"):
            weights = np.ones(self.trained.manifest.rows)
            weights[self.rows] = 0.0
            first = first_step(self.trained.reader, settings)
            return Retraining(self.trained, weights).run(first, progress if group.rank() == 0 else lambda _: None), None
        if method == "gif":
            movement: Movement | str = Movement(self._gif())
        elif method == "ekfac":
            movement = self._from_first(lambda: self._ekfac(settings["damping"]))
        else:
            movement = self._hif(method, settings["damping"], progress)
        if isinstance(movement, str):
            return movement
        moved = {name: value + movement.parameters[name] for name, value in self.final.parameters.items()}
        return replace(self.final, parameters=moved), movement.solved

    def outcome(self, state: State) -> tuple[pa.Table, float]:
        """Loss and margin of every sample that says something, and f."""
        trained = self.trained
        point = Point.at(trained.precise, state.parameters, state.buffers)
        parts = []
        for split, chunks in (
            ("validation", trained.chunks("validation")),
            ("test", trained.chunks("test")),
            ("removed", trained.chunks("train", self.rows)),
        ):
            losses, margins = _judged(trained, point, chunks)
            rows = self.rows if split == "removed" else np.arange(len(losses))
            columns = [[split] * len(losses), pa.array(rows, pa.int32()), losses, margins]
            parts.append(pa.table(columns, schema=OUTCOME_SCHEMA))
        return pa.concat_tables(parts), trained.query_loss(point)

    def _gif(self) -> Tensors:
        trained = self.trained
        checkpoints = used_checkpoints(trained)
        weights = exposures(trained, trained.step_sizes(), checkpoints)[self.rows]
        mine = share_of(len(self.rows), group.rank(), group.world_size())
        rows, weights = self.rows[mine.start : mine.stop], weights[mine.start : mine.stop]
        total = {name: torch.zeros_like(value) for name, value in self.final.parameters.items()}
        for place, step in enumerate(checkpoints.tolist() if len(rows) else []):
            parameters, buffers = perturbed_at(trained, step)
            point = Point.at(trained.precise, parameters, buffers)
            found = weighted_gradient(trained.network, trained.precise, point, self._weighed(rows, weights[:, place]))
            scales = trained.scales_at(step)
            for name, value in (found if scales is None else scaled_by(scales, found)).items():
                total[name] += value
        return group.all_reduce(total)

    def _weighed(self, rows: NDArray[np.int64], weights: NDArray[np.float64]) -> Any:
        size = self.trained.config.evaluation.batch_size
        chunks = Chunks(self.trained.train, size, self.trained.device, rows)
        for place, (inputs, labels) in enumerate(chunks):
            yield inputs, labels, torch.from_numpy(weights[place * size : (place + 1) * size])

    def _hif(self, method: str, damping: float, progress: Progress) -> Movement | str:
        config = self.trained.config
        per_epoch = self.trained.manifest.steps_per_epoch
        objective = Objective(self.trained, config.hif.rows, lambda passes: progress(passes * per_epoch))
        if objective.rank > 0:
            objective.serve()
            return self._from_first(lambda: "is another rank's")

        def solve() -> Movement | str:
            try:
                return self._solved(method, damping, objective)
            finally:
                objective.release()

        return self._from_first(solve)

    def _solved(self, method: str, damping: float, objective: Objective) -> Movement:
        config = self.trained.config
        system = system_of(method, config.hif.solver)
        weights = torch.zeros(objective.rows, dtype=torch.float64)
        weights[torch.from_numpy(self.rows)] = 1.0
        right = objective.weights_effect(system, weights.to(self.trained.device), held=method != "hif_full")
        shift = self.trained.decay + damping
        product = partial(objective.forward_product, system)
        [solution] = SOLVERS[config.hif.solver](product, right, [shift], config.hif.iterations, config.hif.tolerance)
        solved = Solved.of(config.hif.solver, system, damping, solution)
        return Movement(unflatten(solution.vector, self.final.parameters), asdict(solved))

    def _ekfac(self, damping: float) -> Movement:
        trained = self.trained
        point = trained.final
        every = np.full(len(self.rows), 1.0 / trained.manifest.rows)
        right = weighted_gradient(trained.network, trained.precise, point, self._weighed(self.rows, every))
        shift = trained.decay + damping
        seed = counters.seed_of("ekfac", trained.config.seed)
        factors = EKFAC(trained.model(), trained.chunks("train"), seed)
        [(movement, solution)] = factors.solve(right, [shift], trained.config.hif.tolerance)
        solved = Solved.of("ekfac", System.PLAIN_GAUSS_NEWTON, damping, solution)
        return Movement(movement, asdict(solved))

    def _from_first(self, find: Callable[[], Movement | str]) -> Movement | str:
        """What the first rank finds, on all of them. Collective."""
        found: Movement | str = "waits"
        if group.rank() == 0:
            try:
                found = find()
            except (UnsolvableError, FloatingPointError) as error:
                found = f"stopped: {error}"
        like = self.final.parameters
        if isinstance(found, str):
            head: tuple[str | None, dict[str, Any] | None] = (found, None)
            flat = torch.zeros_like(flatten(like))
        else:
            head, flat = (None, found.solved), flatten(found.parameters)
        reason, solved = group.from_first_rank(lambda: head)
        if reason is not None:
            return str(reason)
        return Movement(unflatten(group.all_reduce({"movement": flat})["movement"], like), solved)


def first_step(reader: TrajectoryReader, settings: Mapping[str, Any]) -> int:
    """The checkpoint at which training is taken up again, so that at least `horizon` of it is; 0 without one."""
    last = (1.0 - settings.get("horizon", 1.0)) * reader.manifest.steps
    return max(step for step in reader.manifest.checkpoints if step <= last + 1e-9)


def _judged(trained: TrainedRun, point: Point, chunks: Chunks) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    losses: list[Tensor] = []
    margins: list[Tensor] = []
    with torch.no_grad():
        for inputs, labels in chunks:
            logits = sample_logits(trained.network, point, inputs)
            losses.append(cross_entropy(logits, labels, reduction="none"))
            margins.append(margin(logits, labels))
    return torch.cat(losses).float().cpu().numpy(), torch.cat(margins).float().cpu().numpy()


def _units(config: Config, reader: TrajectoryReader, method: str, settings: Mapping[str, Any]) -> int:
    """Work of a method in steps of training, at most: a product with the matrix counts as an epoch's."""
    manifest = reader.manifest
    if method in (RETRAIN, "replay"):
        return manifest.steps - first_step(reader, settings)
    if method in SYSTEMS:
        return (config.hif.iterations + 2) * manifest.steps_per_epoch
    return 1


def _from(done: int, progress: Progress, units: int) -> None:
    progress(done + units)


def _extent(config: Config, run: RunFolder) -> tuple[int, int]:
    asked, reader = Asked.read(run), TrajectoryReader(run)
    return 0, sum(_units(config, reader, method, asked.methods[method]) for method in asked.missing(run))


EDIT = Task(edit, _extent, lambda run: not Asked.read(run).missing(run), unit="steps")
"""Leaves weights without the samples of `edits/asked.json`; see `auditor.fidelity.edit_files`."""
