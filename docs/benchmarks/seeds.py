"""Does averaging over trainings from several seeds help where training is chaotic?

    sh docs/benchmarks/vary.sh group-norm group-norm-seed-1 group-norm-seed-2 group-norm-seed-3 group-norm-seed-4
    python docs/benchmarks/seeds.py runs/vary-group-norm runs/vary-group-norm-seed-*

The runs share rows, labels and the random subsets that were left out; weights, order and with them the trained model
differ. For each column the LDS (rank correlation over the subsets) of

    one, own       a run's prediction against its own retrainings, mean over the runs
    one, other     against the retrainings of the other runs: what is left when another seed trains
    mean, own      the mean prediction of all runs against the retrainings of one, mean over the runs
    mean, mean     the mean prediction against the mean effect: what the data does, whoever trains

and, as a ceiling, how well the measured effects of two runs agree with each other.
"""

from __future__ import annotations

import sys
from itertools import permutations

import numpy as np

from auditor import RunFolder
from auditor.fidelity.agreement import spearman
from auditor.methods import in_order


def main(folders: list[str]) -> None:
    runs = []
    for folder in folders:
        effects = RunFolder(folder).read_table("verify/effects.parquet").to_pandas()
        runs.append(effects[effects.kind == "subset"].reset_index(drop=True))
    rows = [[tuple(row) for row in run.rows] for run in runs]
    assert all(left_out == rows[0] for left_out in rows), "the runs left out different subsets"
    measured = np.array([run.measured for run in runs])
    pairs = list(permutations(range(len(runs)), 2))
    print(f"{len(runs)} runs, {len(rows[0])} subsets each")
    print(f"measured effects of two runs: {np.mean([spearman(measured[a], measured[b]) for a, b in pairs]):.3f}")
    print(f"{'column':<14}{'one, own':>10}{'one, other':>12}{'mean, own':>11}{'mean, mean':>12}")
    for column in in_order(set.intersection(*(set(run.columns) for run in runs))):
        predicted = np.array([run[column] for run in runs])
        mean = predicted.mean(0)
        own = np.mean([spearman(p, m) for p, m in zip(predicted, measured, strict=True)])
        other = np.mean([spearman(predicted[a], measured[b]) for a, b in pairs])
        mean_own = np.mean([spearman(mean, m) for m in measured])
        print(f"{column:<14}{own:>10.3f}{other:>12.3f}{mean_own:>11.3f}{spearman(mean, measured.mean(0)):>12.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
