"""Ways to fuse "does removing it help?" with "is its label wrong?", judged on the runs of docs/benchmarks/priority.sh.

From the checkout's root: .venv/bin/python docs/benchmarks/priority.py [SEED...]. It prints, averaged over the runs with
these seeds, for harm by replay and by GIF in turn:

* AP: average precision as a search for the flipped labels
* found: share of the flipped labels among as many first samples as there are flipped ones
* caught: harm (by replay, which retrainings confirm) of the first 5 % over that of the 5 % most harmful

The fusion was chosen by the mean of AP and caught over seeds 1 and 2, and checked on seeds 3 and 4.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from auditor import RunFolder
from auditor.methods import harm
from auditor.report.priority import detectors, disagreement, doubt, percentile, priority

Array = NDArray[np.float64]

FUSIONS: dict[str, Callable[[Array, Array], Array]] = {
    "mean": lambda h, d: (h + d) / 2,
    "geometric mean": lambda h, d: np.sqrt(h * d),
    "either": lambda h, d: 1 - (1 - h) * (1 - d),
    "larger": np.maximum,
    "smaller": np.minimum,
}


def judged(run: RunFolder, method: str) -> dict[str, list[float]]:
    """AP, found and caught of each fusion and each part of it, for harm by one method."""
    scores = run.read_table("scores").sort_by("sample_id")
    train = run.read_table("dataset/train", columns=["sample_id", "true_label"]).sort_by("sample_id")
    given = np.asarray(scores["label"])
    wrong = given != np.asarray(train["true_label"])
    columns = {name: np.asarray(scores[name]) for name in ("replay", "gif", "loss", "margin", "aum")}
    disagreeing = disagreement(
        given, np.asarray(scores["suggested_label"]), np.asarray(scores["suggested_probability"])
    )
    h, d = percentile(harm(method, columns[method])), percentile(doubt(columns, disagreeing))
    orders = {"harm alone": h, "doubt alone": d, **{name: fuse(h, d) for name, fuse in FUSIONS.items()}}
    parts = [h, *(percentile(harm(name, columns[name])) for name in detectors(columns)), percentile(disagreeing)]
    orders["mean of all parts"] = np.mean(parts, axis=0)
    orders["reciprocal ranks: priority"] = priority(method, columns, disagreeing)
    orders |= {name: harm(name, columns[name]) for name in detectors(columns)}
    orders["disagreement"] = disagreeing
    effect = harm("replay", columns["replay"])
    first = round(0.05 * len(effect))
    most = np.sort(effect)[-first:].sum()

    def measures(order: Array) -> list[float]:
        places = np.argsort(-order, kind="stable")
        found = wrong[places[: wrong.sum()]].mean()
        return [average_precision_score(wrong, order), found, effect[places[:first]].sum() / most]

    return {name: measures(order) for name, order in orders.items()}


def main(seeds: list[str]) -> None:
    """Print a table for each method that may order the report, and the means of AP and caught over both."""
    runs = [
        RunFolder(path) for path in sorted(Path("runs").glob("priority-*")) if path.name.rpartition("-")[2] in seeds
    ]
    means = {}
    for method in ("replay", "gif"):
        found = [judged(run, method) for run in runs]
        means[method] = {name: np.mean([run[name] for run in found], axis=0) for name in found[0]}
        print(f"\nharm by {method}, {len(runs)} runs\n\n| order | AP | found | caught |\n| --- | --- | --- | --- |")
        for name, values in means[method].items():
            print(f"| {name} |", " | ".join(f"{value:.3f}" for value in values), "|")
    print("\nmean of AP and caught, over both\n\n| order | mean |\n| --- | --- |")
    for name in means["replay"]:
        print(f"| {name} | {np.mean([values[name][[0, 2]] for values in means.values()]):.3f} |")


if __name__ == "__main__":
    main(sys.argv[1:] or ["1", "2"])
