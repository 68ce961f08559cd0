"""The rows of "Other networks and recipes": python docs/benchmarks/table.py runs/vary-relu runs/vary-rho-0 …

Everything is over all retrainings of a run: nothing is chosen by them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from auditor import RunFolder
from auditor.fidelity import Fidelity, Statistic

_HORIZONS = ("replay@0.75", "replay@0.5", "replay@0.25")


def main(folders: list[str]) -> None:
    print("| run | test accuracy | predictability | LOO Pearson | slope | LDS | LDS of the last 75, 50, 25 % ", end="")
    print("| hif_fast: LOO, LDS | gif: LOO, LDS | most harmful 5 %: predicted, measured |")
    print("|" + " --- |" * 10)
    for folder in folders:
        run = RunFolder(folder)
        found = Fidelity.read(run)
        assert found is not None, f"{folder} was not verified"
        columns = found.columns

        def loo(column: str, columns=columns) -> str:
            return _short(columns[column].loo_pearson)

        def lds(column: str, columns=columns) -> str:
            return _short(next(iter(columns[column].lds.values())))

        replay = columns["replay"]
        cells = [
            Path(folder).name.removeprefix("vary-"),
            f"{100 * run.read_json('evaluation.json')['test_accuracy']:.1f} %",
            f"{run.read_json('replay/replay.json')['predictability']:.3g}",
            _long(replay.loo_pearson),
            _short(replay.slope, 2),
            _long(next(iter(replay.lds.values()))),
            ", ".join(map(lds, _HORIZONS)),
            *(f"{loo(method)}, {lds(method)}" if method in columns else "–" for method in ("hif_fast", "gif")),
            f"{found.harmful.predicted:.3f}, {found.harmful.measured:.3f}" if found.harmful else "–",
        ]
        name, *numbers = cells
        print(f"| {name} | {' | '.join(numbers).replace('-', '−')} |")


def _short(statistic: Statistic | None, digits: int = 3) -> str:
    return "–" if statistic is None else f"{statistic.value:.{digits}f}"


def _long(statistic: Statistic | None) -> str:
    return "–" if statistic is None else f"{statistic.value:.3f} ({statistic.low:.2f} to {statistic.high:.2f})"


if __name__ == "__main__":
    main(sys.argv[1:])
