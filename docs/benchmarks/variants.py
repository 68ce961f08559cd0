"""The variants of SAM and micro-batch sizes on the digits demo: accuracy, cost, and how far their influence is right.

From the checkout's root: .venv/bin/python docs/benchmarks/variants.py FOLDER [SEED...]; runs go to FOLDER. Printed for
each variant, averaged over the seeds:

* accuracy on the training rows as they are labelled, a tenth of them wrongly, and on the test rows
* CPU time of a training beside plain SGD's, which takes one pass a step over micro-batches of 64; in one process with
  one thread, the median of the retrainings beside the median of some trainings by SGD in between
* growth of the cotangent in replay (`predictability`)
* LDS: rank correlation of predicted and measured effects of leaving out random 5 % of the training rows
* residual: the largest relative residual of the solves behind HIF
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.config import Config, load_config
from auditor.data import prepare
from auditor.distributed.implicit import Implicit, implicit_influence
from auditor.distributed.loop import StepInputs, run_training
from auditor.distributed.retraining import Retraining
from auditor.distributed.scoring_inputs import prepare_scoring
from auditor.distributed.sweep import Sweep, sweep
from auditor.distributed.trained_run import TrainedRun
from auditor.fidelity.agreement import spearman
from auditor.influence import Derivatives, Point, evaluate
from auditor.sam import State, optimizer_step
from auditor.sam.step import micro_batch_pass
from auditor.storage import RunFolder

CPU = torch.device("cpu")
SUBSETS, SHARE = 20, 0.05
SGD_RUNS, SGD_ROWS = 8, 64
METHODS = ("replay", "hif_full", "hif_fast", "gif")
VARIANTS = {
    "SGD (ρ 0)": ["train.perturbation={name: sam, rho: 0}"],
    "SAM, ρ 0.05": [],
    "SAM, ρ 0.05, p 1.5": ["train.perturbation={name: sam, p: 1.5}"],
    "ASAM, ρ 0.5": ["train.perturbation={name: asam}"],
    "GSAM, ρ 0.05, α 0.1": ["train.perturbation={name: gsam}"],
    "sparse SAM, ρ 0.05, half": ["train.perturbation={name: sparse_sam}"],
    "OBF, ρ 0.05, γ 1, λ 0.1": ["train.perturbation={name: obf}"],
    "friendly SAM, ρ 0.05, σ 1": ["train.perturbation={name: friendly_sam}"],
    "reweighted SAM, ρ 0.05, λ 0.5": ["train.perturbation={name: reweighted_sam}"],
    "ESAM, ρ 0.05, β 0.6, γ 0.5": ["train.perturbation={name: esam}"],
    "LookSAM, ρ 0.05, k 5": ["train.perturbation={name: look_sam}"],
    "momentum SAM, ρ 0.3": ["train.perturbation={name: momentum_sam}"],
    "SAM, ρ 0.05, AdamW": ["train.optimizer={name: adamw, learning_rate: 0.003}"],
    "SAM, ρ 0.05, AdamW, ε 0.001": ["train.optimizer={name: adamw, learning_rate: 0.003, epsilon: 0.001}"],
    "SAM, ρ 0.05, m 8": ["train.micro_batch_size=8"],
    "SAM, ρ 0.05, m 32": ["train.micro_batch_size=32"],
    "SAM, ρ 0.05, m 128": ["train.micro_batch_size=128"],
    "vision transformer, SAM, ρ 0.02, AdamW": [
        "model={name: vit, args: {patch_size: 2, layers: 2, hidden: 32}}",
        "train.epochs=40",
        "train.optimizer={name: adamw, learning_rate: 0.001, epsilon: 0.00001, weight_decay: 0.05, warmup_epochs: 5}",
        "train.perturbation={name: sam, rho: 0.02}",
    ],
}


def audit(path: Path, seed: int, overrides: list[str]) -> Config:
    """The demo with changes; half of the rows stand for all in products with HIF's matrix."""
    solve = ["hif.damping=0.01", "hif.rows=512", "hif.iterations=40"]
    shared = [f"seed={seed}", f"score.methods=[{', '.join(METHODS)}]", "report.rank_by=replay", *solve]
    return load_config("docs/examples/digits.yaml", [*shared, *overrides], run=str(path))


def train(config: Config) -> RunFolder:
    """Prepared and trained in this process; what is there is left alone."""
    run = RunFolder(config.run)
    if not run.exists("dataset.json"):
        prepare(config, run)
    failure = None if run.exists("trajectory/manifest.json") else run_training(config, run, CPU)
    if failure is not None:
        raise SystemExit(failure)
    return run


def sgd(trained: TrainedRun) -> State:
    """The recorded batches by plain SGD, one pass each over micro-batches of `SGD_ROWS`."""
    state, optimizer = trained.reader.state(0), Retraining(trained).optimizer
    inputs = StepInputs(trained.config, trained.train, CPU)
    for _, steps in trained.reader.recorded_steps():
        for step in steps:
            rows = np.concatenate(step.micro_batches)
            parts = np.split(rows, range(SGD_ROWS, len(rows), SGD_ROWS))
            passes = [
                micro_batch_pass(
                    trained.network,
                    state.parameters,
                    state.buffers,
                    inputs.micro_batch(step.index, step.epoch, index, part),
                )
                for index, part in enumerate(parts)
            ]
            gradient, moved = (
                {name: torch.stack([each[name] for each in some]).mean(dim=0) for name in some[0]}
                for some in ([one.gradient for one in passes], [one.statistics for one in passes])
            )
            after = optimizer_step(state, gradient, optimizer(step))
            state = replace(after, buffers=trained.network.move_statistics(state.buffers, moved))
    return state


def timed(work: Callable[[], State]) -> tuple[State, float]:
    """The final state of a training and its seconds of CPU time."""
    began = time.process_time()
    return work(), time.process_time() - began


def gif(config: Config, run: RunFolder, trained: TrainedRun) -> NDArray[np.float64]:
    """The influence of every training row, [rows]."""
    inputs = prepare_scoring(config, run, CPU)
    along = Derivatives(trained.network, inputs.directions)
    derivatives = torch.cat([along(*chunk) for chunk in trained.chunks("train")]).numpy()
    return np.asarray((inputs.weights["gif"] * derivatives).sum(axis=1))


def judged(config: Config, run: RunFolder) -> dict[str, float]:
    """The numbers of one variant."""
    trained, swept, solved = TrainedRun(config, run, CPU), sweep(config, run, CPU), implicit_influence(config, run, CPU)
    if not isinstance(swept, Sweep) or not isinstance(solved, Implicit):
        raise SystemExit(f"{swept}\n{solved}")
    influence = {"replay": swept.influence, **solved.influence, "gif": gif(config, run, trained)}
    final = trained.point(trained.manifest.steps)
    draw = np.random.default_rng(config.seed)
    predicted: dict[str, list[float]] = {method: [] for method in METHODS}
    measured, own, plain = [], [], []
    for place in range(SUBSETS):
        left_out = np.sort(draw.choice(trained.manifest.rows, round(SHARE * trained.manifest.rows), replace=False))
        weights = np.ones(trained.manifest.rows)
        weights[left_out] = 0.0
        state, seconds = timed(Retraining(trained, weights).run)
        own.append(seconds)
        if place < SGD_RUNS:
            plain.append(timed(lambda: sgd(trained))[1])
        measured.append(trained.query_loss(Point.at(trained.precise, state.parameters, state.buffers)))
        for method, values in predicted.items():
            values.append(influence[method][left_out].sum())
    found = {
        "training accuracy": evaluate(trained.network, final, trained.chunks("train")).accuracy,
        "test accuracy": evaluate(trained.network, final, trained.chunks("test")).accuracy,
        "CPU time": float(np.median(own) / np.median(plain)),
        "growth": swept.predictability,
    }
    for method, values in predicted.items():
        found[f"LDS {method}"] = float(spearman(np.array(values), np.array(measured)))
    found["residual"] = max(column.residual for column in solved.columns.values())
    return found


def main(folder: Path, seeds: list[int]) -> None:
    """Print a table."""
    torch.set_num_threads(1)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for seed in seeds:
        for place, (name, overrides) in enumerate(VARIANTS.items()):
            config = audit(folder / f"{seed}-{place}", seed, overrides)
            results[name].append(judged(config, train(config)))
            print(seed, name, results[name][-1], flush=True)
    columns = list(next(iter(results.values()))[0])
    print("| variant |", " | ".join(columns), "|")
    print("| --- |", " | ".join("---:" for _ in columns), "|")
    for name, found in results.items():
        print("|", name, "|", " | ".join(f"{np.mean([one[key] for one in found]):.3f}" for key in columns), "|")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(seed) for seed in sys.argv[2:]] or [1])
