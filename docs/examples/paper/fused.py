"""Whether detectors find wrong labels better together.

`python docs/examples/paper/fused.py --choose RUN... --judge RUN...` averages the percentiles of every set of up to four
detectors of scored audits. The set with the best mean average precision over the runs of `--choose` is held against the
single detector chosen likewise on the runs of `--judge`, whose labels chose nothing. Beside them stands the doubt that
the report's priority is made of: the mean over all detectors.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from auditor import RunFolder, load_config
from auditor.report.detection import Detection, judge
from auditor.report.priority import detectors, disagreement, doubt, percentile
from auditor.report.ranking import rank_samples

LARGEST = 4
"""Detectors in a set."""


@dataclass(frozen=True)
class Scored:
    """One audit: which labels are wrong, and how suspicious each detector finds them."""

    sample_ids: pa.ChunkedArray
    wrong: NDArray[np.bool_]
    """[n]"""
    percentiles: dict[str, NDArray[np.float64]]
    """By detector, [n]."""

    @classmethod
    def of(cls, folder: str) -> Scored:
        """Of a run folder whose truth is known."""
        run = RunFolder(folder)
        ranking = rank_samples(load_config(run.full("config.yaml"), run=folder), run)
        if ranking.wrong is None:
            raise SystemExit(f"{folder}: the truth about its labels is not known")
        found = {method: percentile(ranking.harm(method)) for method in detectors(ranking.methods)}
        probability = np.asarray(ranking.table["suggested_probability"])
        disagreeing = disagreement(ranking.given, ranking.suggested, probability)
        scores = {method: np.asarray(ranking.table[method], dtype=np.float64) for method in ranking.methods}
        found["doubt"] = doubt(scores, disagreeing)
        return cls(ranking.table["sample_id"], ranking.wrong, found)

    def by(self, names: Sequence[str]) -> Detection:
        """How well the mean percentile of some detectors finds the wrong labels."""
        mean = np.asarray(np.mean([self.percentiles[name] for name in names], axis=0), dtype=np.float64)
        return judge(mean, self.wrong, self.sample_ids)


def best(runs: Sequence[Scored], sets: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The set with the best mean average precision."""
    return max(sets, key=lambda names: float(np.mean([run.by(names).average_precision for run in runs])))


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--choose", nargs="+", required=True)
    parser.add_argument("--judge", nargs="+", required=True)
    given = parser.parse_args()
    choosing = [Scored.of(folder) for folder in given.choose]
    names = [name for name in choosing[0].percentiles if name != "doubt"]
    singles = [(name,) for name in names]
    several = [names_of for size in range(2, LARGEST + 1) for names_of in combinations(names, size)]
    chosen = [best(choosing, several), best(choosing, singles), ("doubt",)]
    print("| run | detectors | AUROC | average precision | 10% | 20% |")
    print("| --- | --- |" + " ---: |" * 4)
    for folder, role in [*((folder, "chose") for folder in given.choose), *((one, "judges") for one in given.judge)]:
        run = Scored.of(folder)
        others = [single for single in singles if single not in chosen]
        for names_of in [*chosen, *others]:
            found = run.by(names_of)
            cells = [f"{found.auroc:.3f}", f"{found.average_precision:.3f}"]
            cells += [f"{found.found[share]:.1%}" for share in ("0.1", "0.2")]
            print(f"| {folder} ({role}) | {' + '.join(names_of)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
