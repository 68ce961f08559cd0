"""What the radius of SAM's perturbation changes: `python docs/examples/paper/rho.py CONFIG RHO...`.

For each ρ, trains, scores and verifies the audit in a run folder of its own, where that is not done, and prints a line:
test accuracy, how much small changes grew through training, the share of the wrong labels among the first tenth by each
score, and the rank correlation of each predicting score with retrainings without random subsets (LDS).
"""

from __future__ import annotations

import argparse
import logging

from auditor import Audit, load_config
from auditor.methods import METHODS, base


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("rho", nargs="+")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for place, rho in enumerate(given.rho):
        folder = f"{load_config(given.config).run}-{rho}"
        config = load_config(given.config, [f"train.perturbation.rho={rho}"], folder)
        audit = Audit(config)
        audit.train()
        audit.score()
        fidelity = audit.verify()
        found = audit.report()
        predicting = [name for name in fidelity.columns if METHODS[base(name)].predicts and "@" not in name]
        if not place:
            heads = [*(f"found by {name}" for name in found.detection), *(f"LDS {name}" for name in predicting)]
            print(f"| ρ | test accuracy | growth | {' | '.join(heads)} |")
            print(f"| --- |{' ---: |' * (2 + len(heads))}")
        cells = [f"{found.test_accuracy:.1%}", f"{found.predictability:.2f}"]
        cells += [f"{detection.found['0.1']:.1%}" for detection in found.detection.values()]
        for name in predicting:
            [lds] = fidelity.columns[name].lds.values()
            cells.append("–" if lds is None else f"{lds.value:.3f}")
        print(f"| {rho} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
