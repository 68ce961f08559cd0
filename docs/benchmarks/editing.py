"""Edits beside real retrainings, in the form of the paper's table 1: `python docs/benchmarks/editing.py CONFIG`.

Trains and scores the audit where that is not done, then leaves out its most harmful, its most helpful and random
samples, a share at a time, and prints one line for each set of samples and each method. What is done is kept.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence

from auditor import Audit
from auditor.config import Config, load_config
from auditor.fidelity.edit import Edit
from auditor.fidelity.edit_table import edit_table

METHODS = ("replay", "hif_full", "hif_fast", "hif", "ekfac", "gif")
SIDES = ("harmful", "helpful", "random")
SHARES = (0.01, 0.05, 0.1)


def edits(
    config: Config, sides: Sequence[str], shares: Sequence[float], methods: Sequence[str]
) -> Iterator[tuple[str, float, Edit]]:
    """Each set of samples with what became of it."""
    for side in sides:
        for share in shares:
            asked = {"remove": side, "share": share, "methods": list(methods), "compare": True}
            edit = config.edit.model_validate(asked)
            yield side, share, Audit(config.model_copy(update={"edit": edit})).edit()


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("--run")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    config = load_config(given.config, given.overrides, given.run)
    audit = Audit(config)
    audit.train()
    audit.score()
    found_edits = edits(config, given.sides, given.shares, given.methods)
    for place, (side, share, found) in enumerate(found_edits):
        head, *lines = ([cell for cell in line.split("  ") if cell] for line in edit_table(found))
        if not place:
            print(f"| samples | {' | '.join(head)} |")
            print(f"| --- |{' ---: |' * len(head)}")
        for line in lines:
            print(f"| {share:.0%} {side} ({found.samples}) | {' | '.join(cell.strip() for cell in line)} |", flush=True)


if __name__ == "__main__":
    main()
