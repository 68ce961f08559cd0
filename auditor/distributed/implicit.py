"""SAM-HIF, the classic influence function, EK-FAC and its self-influence of a finished training: no Ray in it.

See `auditor.influence.hif` for the formulas and `auditor.distributed.objective` for the sharing of work.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from auditor import counters
from auditor.config import Config
from auditor.distributed.objective import Objective
from auditor.distributed.trained_run import Chunks, TrainedRun
from auditor.influence import Derivatives, Directions
from auditor.influence.ekfac import EKFAC
from auditor.influence.hif import System, flatten
from auditor.influence.solvers import SOLVERS, Solution, UnsolvableError
from auditor.methods import END_OF_TRAINING
from auditor.sam import Tensors
from auditor.storage import RunFolder

DAMPINGS = (0.003, 0.01, 0.03, 0.1, 0.3)
"""The grid for `hif.damping` null."""
_DAMPING = 0.01
"""The one of the grid whose columns are named without `@`."""

SYSTEMS = {
    "hif_full": System.FULL,
    "hif_fast": System.HELD,
    "hif": System.FULL,
    "influence": System.PLAIN,
}
_GAUSS_NEWTON = {System.HELD: System.HELD_GAUSS_NEWTON, System.PLAIN: System.PLAIN_GAUSS_NEWTON}
"""What conjugate gradients solve with in place of a Hessian, which need not be positive definite."""


def system_of(method: str, solver: str) -> System:
    """Which matrix a method solves with."""
    system = SYSTEMS[method]
    return _GAUSS_NEWTON.get(system, system) if solver == "cg" else system


@dataclass(frozen=True)
class Solved:
    """How one score column was solved for."""

    solver: str
    """Of `hif.solver`, or `ekfac`."""
    system: str
    """Which matrix: a `System` in small letters; its Gauss-Newton matrix for `cg` and `ekfac`."""
    damping: float
    """Added to the matrix beside the weight decay."""
    iterations: int
    """Products with the matrix."""
    residual: float
    """‖∇f − (Jᵀ + (λ + damping) I) s‖ / ‖∇f‖."""
    converged: bool
    """Whether the residual is within `hif.tolerance`."""

    @classmethod
    def of(cls, solver: str, system: System, damping: float, solution: Solution) -> Solved:
        """From what the solver says."""
        name = system.name.lower()
        return cls(solver, name, damping, solution.iterations, solution.residual, solution.converged)


@dataclass
class Implicit:
    """What was found."""

    rows: int
    """Training rows in products with the matrix."""
    influence: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """[rows] by score column: positive helps, negative harms; in nats of the mean validation loss. For `ekfac_self`, of
    the sample's own loss."""
    columns: dict[str, Solved] = field(default_factory=dict)
    """By score column that a solve gave, which `ekfac_self` is not."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By method; `hif` and `hif_full` share theirs."""


def implicit_influence(
    config: Config, run: RunFolder, device: torch.device, progress: Callable[[int], None] = lambda _: None
) -> Implicit | str | None:
    """Solve Jᵀ s = ∇f(θ_T) and multiply s with every row's effect on the gradient, for each method and damping.

    Collective: every worker of a process group calls it; alone it computes by itself.

    Args:
        config: The audit.
        run: Its run folder, training complete.
        device: This worker's device.
        progress: Told the number of passes over the training rows, on the first rank.

    Returns:
        The influence of every training row, or in one sentence why there is none; None on the other ranks.

    Raises:
        StageError: Training has not ended.
    """
    trained = TrainedRun(config, run, device)
    objective = Objective(trained, config.hif.rows, progress)
    if objective.rank > 0:
        objective.serve()
        return None
    try:
        return _solve(trained, objective)
    except (UnsolvableError, FloatingPointError) as error:
        return f"hif stopped: {error}"
    finally:
        objective.release()


def passes(config: Config) -> int:
    """At most this many passes over the training rows, for showing progress."""
    dampings = 1 if config.hif.damping is not None else len(DAMPINGS)
    solves = 1 if config.hif.solver in ("gmres", "cg") else dampings
    systems = {SYSTEMS[method] for method in config.score.methods if method in SYSTEMS}
    return len(systems) * (solves * config.hif.iterations + 2 * dampings)


def _solve(trained: TrainedRun, objective: Objective) -> Implicit | str:
    config = trained.config
    methods = [method for method in END_OF_TRAINING if method in config.score.methods]
    dampings = DAMPINGS if config.hif.damping is None else (config.hif.damping,)
    shifts = [trained.decay + damping for damping in dampings]
    gradient = trained.validation_gradient()
    right = flatten({name: gradient[name] for name in objective.parameters})
    if not bool(right.isfinite().all()) or not bool(right.any()):
        return "hif stopped: the gradient of the validation loss is zero or not finite"
    found = Implicit(objective.rows_in_products)
    for system in dict.fromkeys(SYSTEMS[method] for method in methods if method in SYSTEMS):
        started = time.monotonic()
        sharing = [method for method in methods if SYSTEMS.get(method) is system]
        matrix = system_of(sharing[0], config.hif.solver)
        solve = SOLVERS[config.hif.solver]
        product = partial(objective.product, matrix)
        solutions = solve(product, right, shifts, config.hif.iterations, config.hif.tolerance)
        for damping, solution in zip(dampings, solutions, strict=True):
            held, through = objective.row_products(matrix, solution.vector)
            for method in sharing:
                column = _column(config, method, damping)
                found.influence[column] = held + through if method == "hif_full" else held
                found.columns[column] = Solved.of(config.hif.solver, matrix, damping, solution)
        found.seconds |= dict.fromkeys(sharing, time.monotonic() - started)
    if {"ekfac", "ekfac_self"} & set(methods):
        _add_ekfac(found, trained, gradient, dampings, shifts)
    for column, values in found.influence.items():
        if not np.isfinite(values).all():
            return f"hif stopped: the influence in {column} is not finite"
    return found


def _add_ekfac(
    found: Implicit, trained: TrainedRun, gradient: Tensors, dampings: tuple[float, ...], shifts: list[float]
) -> None:
    """EK-FAC at θ_T in evaluation mode, on this worker alone: a few passes over the rows, then one a row.

    `ekfac_self` is (1/n) ∇l_kᵀ (F + λ + damping)⁻¹ ∇l_k, at the damping of the plain columns.
    """
    config, manifest = trained.config, trained.manifest
    started = time.monotonic()
    chunks = Chunks(trained.train, config.evaluation.batch_size, trained.device)
    factors = EKFAC(trained.model(), chunks, counters.seed_of("ekfac", config.seed))
    shared = time.monotonic() - started
    if "ekfac" in config.score.methods:
        started = time.monotonic()
        solutions = factors.solve(gradient, shifts, config.hif.tolerance)
        point = trained.final
        vectors = [vector for vector, _ in solutions]
        directions = Directions.along(trained.precise, point.parameters, point.buffers, vectors)
        along = Derivatives(trained.network, [directions])
        derivatives = torch.cat([along(*chunk) for chunk in chunks]).cpu().numpy()
        for place, (damping, (_, solution)) in enumerate(zip(dampings, solutions, strict=True)):
            column = _column(config, "ekfac", damping)
            found.influence[column] = derivatives[:, place] / manifest.rows
            found.columns[column] = Solved.of("ekfac", System.PLAIN_GAUSS_NEWTON, damping, solution)
        found.seconds["ekfac"] = shared + time.monotonic() - started
    if "ekfac_self" in config.score.methods:
        started = time.monotonic()
        damping = _DAMPING if config.hif.damping is None else config.hif.damping
        shift = trained.decay + damping
        own = torch.cat([factors.self_influence(*chunk, shift) for chunk in chunks])
        found.influence["ekfac_self"] = own.cpu().numpy() / manifest.rows
        found.seconds["ekfac_self"] = shared + time.monotonic() - started


def _column(config: Config, method: str, damping: float) -> str:
    plain = config.hif.damping is not None or damping == _DAMPING
    return method if plain else f"{method}@{damping:g}"
