"""How well each score finds wrong labels, and what removing its first ones does.

`python docs/examples/paper/harmful.py CONFIG` trains and scores the audit where that is not done, and prints a line for
each score and for the priority that the report fuses from them: AUROC, average precision, the share of the wrong labels
among the first 1, 5, 10, 20 and 40 % of its ranking, and the test accuracy of a real retraining without the first
`report.flagged` of it. The last lines are the training as it was, and without all wrong labels and no others.

With `--seeds` these retrainings are done again with other initial weights and another order (`train.seed`), without the
same samples: the mean, and the standard deviation over the trainings behind it.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence

import numpy as np

from auditor import Audit, load_config
from auditor.config import Config
from auditor.distributed.cluster import cluster
from auditor.distributed.retrain import retrain_on_ray
from auditor.fidelity import Removal
from auditor.fidelity.removals import share_count
from auditor.fidelity.verification import result_file
from auditor.report.detection import SHARES, detect
from auditor.report.ranking import Ranking, harm_order, rank_samples


def removals(config: Config, ranking: Ranking, orders: Sequence[str]) -> dict[str, Removal]:
    """What is left out of each retraining: nothing, the first of each order, exactly the wrong labels."""
    count = share_count(config.report.flagged, len(ranking.rows))
    found = {"as trained": Removal("none", ())}
    for order in orders:
        first = harm_order(ranking.harm(order), ranking.table["sample_id"])[:count]
        found[order] = Removal("samples", tuple(np.sort(ranking.rows[first]).tolist()), config.report.flagged)
    if ranking.wrong is not None:
        wrong = np.sort(ranking.rows[ranking.wrong]).tolist()
        found["without the wrong labels"] = Removal("samples", tuple(wrong), len(wrong) / len(ranking.rows))
    return found


def seeded(config: Config, seed: int) -> Audit:
    """The same audit, trained from another seed on the same rows and labels."""
    train = config.train.model_copy(update={"seed": seed})
    audit = Audit(config.model_copy(update={"run": f"{config.run}-seed-{seed}", "train": train}))
    audit.train()
    return audit


def accuracies(audit: Audit, left_out: Mapping[str, Removal]) -> dict[str, float]:
    """Test accuracy of a retraining without each."""
    config, run = audit.config, audit.folder
    with cluster(config.resources):
        retrain_on_ray(config, run, list(left_out.values()), "retrain")
    return {name: float(run.read_json(result_file(removal))["test_accuracy"]) for name, removal in left_out.items()}


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("--run")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--remove", nargs="*", help="scores to retrain by; all by default, none where none is named")
    parser.add_argument(
        "--seeds", nargs="*", type=int, default=[], help="of further trainings, without the same samples"
    )
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = load_config(given.config, given.overrides, given.run)
    audit = Audit(config)
    audit.train()
    audit.score()
    ranking = rank_samples(config, audit.folder)
    detection = detect(ranking)
    orders = ranking.orders if given.remove is None else given.remove
    tested: dict[str, list[float]] = {}
    for seed in [None, *given.seeds] if orders else []:
        trained = audit if seed is None else seeded(config, seed)
        for name, accuracy in accuracies(trained, removals(config, ranking, orders)).items():
            tested.setdefault(name, []).append(accuracy)
    shares = " | ".join(f"{share:.0%}" for share in SHARES)
    retrained = f"test accuracy without the first {config.report.flagged:.0%}"
    print(f"| ranked by | AUROC | average precision | {shares} | {retrained} |")
    print(f"| --- |{' ---: |' * (len(SHARES) + 3)}")
    for order, found in detection.items():
        cells = [
            f"{found.auroc:.3f}",
            f"{found.average_precision:.3f}",
            *(f"{found.found[str(share)]:.1%}" for share in SHARES),
        ]
        print(f"| {order} | {' | '.join(cells)} | {_percent(tested.get(order))} |")
    for name in ("as trained", "without the wrong labels"):
        if name in tested:
            print(f"| {name} |{' – |' * (len(SHARES) + 2)} {_percent(tested[name])} |")


def _percent(values: Sequence[float] | None) -> str:
    if not values:
        return "–"
    return f"{np.mean(values):.1%}{f' ± {np.std(values, ddof=1):.1%}' if len(values) > 1 else ''}"


if __name__ == "__main__":
    main()
