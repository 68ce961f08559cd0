"""What is computed once before training rows stream by to explain single validation images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor import counters
from auditor.config import Config
from auditor.distributed.rounding import Rounding, fewer_bits
from auditor.distributed.scoring_inputs import exposures, gif_directions, used_checkpoints
from auditor.distributed.trained_run import TrainedRun
from auditor.fidelity.removals import Removal
from auditor.fidelity.verification import losses_file, read_effects
from auditor.influence import Directions, Point, query_gradient
from auditor.influence.ekfac import EKFAC
from auditor.sam import Tensors
from auditor.storage import RunFolder

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Images:
    """The validation images to explain, in falling order of their loss."""

    rows: NDArray[np.int64]
    """[M] in dataset/validation."""
    sample_ids: list[str]
    labels: NDArray[np.int64]
    """[M] given class."""
    predicted: NDArray[np.int64]
    """[M] class that the model prefers."""
    probabilities: NDArray[np.float64]
    """[M] of the preferred class."""
    losses: NDArray[np.float64]
    """[M] in nats."""
    misclassified: int
    """Validation images that the model gets wrong, shown or not."""


@dataclass(frozen=True)
class Retrained:
    """Real retrainings without random subsets, to judge predictions for single images by."""

    rows: list[NDArray[np.int64]]
    """What was left out of each, ascending."""
    effects: NDArray[np.float64]
    """[retrainings, M]: how each image's loss rose."""


@dataclass(frozen=True)
class Sensitivity:
    """What the losses of some images are sensitive to: what an actor needs beside the samples. Tensors on the CPU."""

    directions: tuple[Directions, ...]
    """For each point, one tangent an image."""
    weights: NDArray[np.float64]
    """W [training rows, points]: influence on image z is Σ_p W[k, p] ⟨∇l_k(θ_p), v_{p,z}⟩."""
    left_out: list[NDArray[np.int64]]
    """Training rows, ascending, of each retraining to predict."""
    dtype: torch.dtype | None
    """Of the numbers that passes over samples compute with; None for that of the parameters."""

    def __len__(self) -> int:
        return len(self.directions[0])


def influence(weights: NDArray[np.float64], derivatives: NDArray[np.float64]) -> NDArray[np.float64]:
    """Influence of samples on images, [m, M], from W [m, points] and derivatives [m, points · M]."""
    found: NDArray[np.float64] = np.einsum("kp,kpz->kz", weights, derivatives.reshape(*weights.shape, -1))
    return found


class Explaining:
    """The images to explain, the retrainings to judge by, and directions for some images at a time.

    Args:
        config: The audit.
        run: Its run folder, training complete.
        device: Where to compute.

    Raises:
        StageError: Training has not ended.
    """

    def __init__(self, config: Config, run: RunFolder, device: torch.device) -> None:
        self._trained = TrainedRun(config, run, device)
        self._point = self._trained.final
        self.images = _images(self._trained, self._point, config.explain.images)
        self.retrained = _retrained(run, self.images)

    def parts(self) -> Iterator[tuple[Sensitivity, dict[str, Rounding]]]:
        """As many images at a time as `explain.memory_gib` has room for, in order.

        Yields:
            What an actor needs for them; and by sample_id what it costs that passes compute in fewer bits, empty where
            they do not.

        Raises:
            UnsolvableError: `explain.method` is `ekfac`, which knows no layer of the model.
        """
        tensors = [*self._point.parameters.values(), *self._point.statistics.values()]
        bytes_an_image = sum(value.nbytes for value in tensors) * self._points
        size = max(1, int(self._trained.config.explain.memory_gib * 2**30) // bytes_an_image)
        for first in range(0, len(self.images.rows), size):
            yield self._sensitivity(self.images.rows[first : first + size])

    def _sensitivity(self, rows: NDArray[np.int64]) -> tuple[Sensitivity, dict[str, Rounding]]:
        trained, point = self._trained, self._point
        gradients = [
            query_gradient(trained.network, trained.precise, point, trained.chunks("validation", np.array([row])))
            for row in rows
        ]
        if trained.config.explain.method == "gif":
            checkpoints = used_checkpoints(trained)
            directions = gif_directions(trained, checkpoints, gradients)
            weights = exposures(trained, trained.step_sizes(), checkpoints)
        else:
            tangents = [self._solve(gradient) for gradient in gradients]
            directions = [Directions.along(trained.precise, point.parameters, point.buffers, tangents)]
            weights = np.full((trained.manifest.rows, 1), 1.0 / trained.manifest.rows)

        def by_image(some: NDArray[np.integer], derivatives: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
            names = [trained.validation.sample_ids[row] for row in rows]
            return dict(zip(names, influence(weights[some], derivatives).T, strict=True))

        dtype, lost = fewer_bits(trained, directions, by_image)
        on_cpu = tuple(some.to(_CPU) for some in directions)
        return Sensitivity(on_cpu, weights, self.retrained.rows, dtype), lost

    @property
    def _points(self) -> int:
        return len(used_checkpoints(self._trained)) if self._trained.config.explain.method == "gif" else 1

    @cached_property
    def _solve(self) -> Callable[[Mapping[str, Tensor]], Tensors]:
        trained = self._trained
        factors = EKFAC(trained.model(), trained.chunks("train"), counters.seed_of("ekfac", trained.config.seed))
        shift = trained.decay + trained.config.explain.damping
        return factors.inverse(shift)


def _images(trained: TrainedRun, point: Point, count: int) -> Images:
    logits, labels = trained.validation_logits(point)
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none").double()
    probabilities, predicted = logits.double().softmax(dim=1).max(dim=1)
    wrong = torch.nonzero(predicted != labels).flatten()
    shown = wrong[losses[wrong].argsort(descending=True, stable=True)][:count]

    def of(values: Tensor) -> NDArray[Any]:
        return np.asarray(values[shown].cpu().numpy())

    return Images(
        rows=np.asarray(shown.cpu().numpy()),
        sample_ids=[trained.validation.sample_ids[row] for row in shown.tolist()],
        labels=of(labels),
        predicted=of(predicted),
        probabilities=of(probabilities),
        losses=of(losses),
        misclassified=len(wrong),
    )


def _retrained(run: RunFolder, images: Images) -> Retrained:
    """The retrainings without random subsets of the smallest share that have left validation losses."""
    table = read_effects(run)
    lines = [] if table is None else table.select(["kind", "share", "rows"]).to_pylist()
    subsets = [line for line in lines if line["kind"] == "subset"]
    smallest = min((line["share"] for line in subsets), default=0.0)
    left_out = [line["rows"] for line in subsets if line["share"] == smallest]
    # Retrainings of a release that kept no losses; verifying again does them again.
    left_out = [rows for rows in left_out if run.exists(losses_file(Removal("subset", tuple(rows), smallest)))]
    recorded = losses_file(Removal("none", ()))
    if not left_out or not run.exists(recorded):
        return Retrained([], np.empty((0, len(images.rows))))

    def losses(name: str) -> NDArray[np.float64]:
        return np.asarray(run.read_table(name)["loss"].to_numpy(), dtype=np.float64)[images.rows]

    before = losses(recorded)
    after = [losses(losses_file(Removal("subset", tuple(rows), smallest))) for rows in left_out]
    return Retrained([np.array(rows) for rows in left_out], np.array(after) - before)
