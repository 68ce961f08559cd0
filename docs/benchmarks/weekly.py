"""Training again when rows were added, from scratch or from last week's weights: what each costs in audit quality.

From the checkout's root: .venv/bin/python docs/benchmarks/weekly.py FOLDER [SEED...]; runs go to FOLDER.
Last week's audit holds 700 of the digits' training rows, this week's all of them; a tenth of the labels is flipped, the
same ones in both. Printed for each way of training, averaged over the seeds:

* seconds of training (one process), test accuracy, and growth of the cotangent in replay (`predictability`)
* AUROC of a search for flipped labels by AUM and by replay, among last week's rows and among the new ones
* LDS of replay: rank correlation of predicted and measured effects of leaving out random 5 %, out of this week's
  training, and out of both weeks' where this week's starts from last week's weights
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from auditor.config import Config, load_config
from auditor.data import prepare
from auditor.distributed.loop import run_training
from auditor.distributed.retraining import Retraining
from auditor.distributed.scoring_inputs import prepare_scoring
from auditor.distributed.sweep import Sweep, sweep
from auditor.distributed.trained_run import TrainedRun
from auditor.fidelity.agreement import spearman
from auditor.influence import Point
from auditor.initial_weights import settle_weights
from auditor.sam import State
from auditor.storage import RunFolder

CPU = torch.device("cpu")
OLD, SUBSETS, SHARE = 700, 20, 0.05
WAYS: dict[str, list[str]] = {
    "scratch, 60 epochs": [],
    "weights, 60 epochs": ["model.weights=LAST"],
    "weights, 15 epochs": ["model.weights=LAST", "train.epochs=15", "train.optimizer.warmup_epochs=1"],
    "weights, last layer, 15 epochs": [
        "model.weights=LAST",
        "train.epochs=15",
        "train.optimizer.warmup_epochs=1",
        'model.frozen=["1.*", "3.*"]',
    ],
}


def audit(path: Path, seed: int, overrides: list[str]) -> Config:
    """The demo with a small perceptron, and changes."""
    network = "model={name: mlp, args: {hidden: [64, 64]}}"
    shared = [f"seed={seed}", network, "train.epochs=60", "score.methods=[replay, aum]", "report.rank_by=replay"]
    return load_config("docs/examples/digits.yaml", [*shared, *overrides], run=str(path))


def train(config: Config) -> RunFolder:
    """Prepared and trained in this process; what is there is left alone."""
    run = RunFolder(config.run)
    if not run.exists("dataset.json"):
        prepare(config, run)
    settle_weights(config, run)
    failure = None if run.exists("trajectory/manifest.json") else run_training(config, run, CPU)
    if failure is not None:
        raise SystemExit(failure)
    return run


def loss_without(
    trained: TrainedRun, rows: NDArray[np.int64], last: TrainedRun | None = None, sample_ids: Sequence[str] = ()
) -> float:
    """Validation loss after this week's training without some rows, and last week's without them, if it is given."""
    state = trained.reader.state(0)
    if last is not None:
        gone = {sample_ids[row] for row in rows}
        masked = [row for row, sample_id in enumerate(last.train.sample_ids) if sample_id in gone]
        before = Retraining(last, _weights(last, masked)).run()
        known = {**before.buffers, **before.parameters}
        state = State(
            {name: known[name] for name in state.parameters},
            state.momentum,
            {name: known[name] for name in state.buffers},
        )
    training = Retraining(trained, _weights(trained, rows))
    for _, steps in trained.reader.recorded_steps():
        for step in steps:
            state = training.forward(state, step)
    return trained.query_loss(Point.at(trained.precise, state.parameters, state.buffers))


def _weights(trained: TrainedRun, masked: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
    weights = np.ones(trained.manifest.rows)
    weights[masked] = 0.0
    return weights


def judged(config: Config, run: RunFolder, before: Config, past: RunFolder) -> dict[str, float]:
    """The numbers of one way."""
    old = set(past.read_table("dataset/train", columns=["sample_id"])["sample_id"].to_pylist())
    rows = run.read_table("dataset/train", columns=["row", "sample_id", "label", "true_label"]).sort_by("row")
    wrong = rows["label"].to_numpy() != rows["true_label"].to_numpy()
    known = np.array([sample_id in old for sample_id in rows["sample_id"].to_pylist()])
    swept, inputs = sweep(config, run, CPU), prepare_scoring(config, run, CPU)
    if not isinstance(swept, Sweep):
        raise SystemExit(swept)
    found: dict[str, float] = {
        "seconds": run.read_json("trajectory/manifest.json")["seconds"],
        "accuracy": inputs.evaluation["test_accuracy"],
        "growth": swept.predictability,
    }
    for name, suspicion in (("aum", -inputs.known["aum"]), ("replay", -swept.influence)):
        for group, chosen in (("old", known), ("new", ~known)):
            found[f"{name} {group}"] = float(roc_auc_score(wrong[chosen], suspicion[chosen]))
    draw, last = np.random.default_rng(0), None if config.model.weights is None else TrainedRun(before, past, CPU)
    trained, sample_ids = TrainedRun(config, run, CPU), rows["sample_id"].to_pylist()
    predicted, measured = [], []
    for _ in range(SUBSETS):
        left_out = np.sort(draw.choice(len(rows), round(SHARE * len(rows)), replace=False))
        predicted.append(swept.influence[left_out].sum())
        measured.append([loss_without(trained, left_out), loss_without(trained, left_out, last, sample_ids)])
    for name, effects in zip(("lds", "lds of both weeks"), np.array(measured).T, strict=True):
        found[name] = float(spearman(np.array(predicted), effects))
    return found


def main(folder: Path, seeds: list[int]) -> None:
    """Print a table."""
    torch.set_num_threads(1)
    results: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for seed in seeds:
        before = audit(folder / f"last-{seed}", seed, [f"data.limit.train={OLD}"])
        last = train(before)
        for place, (way, overrides) in enumerate(WAYS.items()):
            changed = [override.replace("LAST", last.uri) for override in overrides]
            config = audit(folder / f"this-{seed}-{place}", seed, changed)
            results[way].append(judged(config, train(config), before, last))
            print(seed, way, results[way][-1], flush=True)
    columns = list(next(iter(results.values()))[0])
    print("| training |", " | ".join(columns), "|")
    for way, found in results.items():
        print("|", way, "|", " | ".join(f"{np.mean([one[name] for one in found]):.3f}" for name in columns), "|")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(seed) for seed in sys.argv[2:]] or [1, 2])
