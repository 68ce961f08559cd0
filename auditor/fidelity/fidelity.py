"""How well each score column agrees with real retrainings, and which column to believe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.fidelity.agreement import FEWEST, Measure, Statistic, pearson, resamples, slope, spearman, statistic
from auditor.fidelity.removals import Removal
from auditor.methods import AUTO, METHODS, base
from auditor.storage import RunFolder

FIDELITY_FILE = "verify/fidelity.json"
_SURE = 0.9
"""Share of bootstrap resamples in which a rival must agree better before it takes the place of the usual choice."""


@dataclass(frozen=True)
class MethodFidelity:
    """Agreement of one method with the retrainings."""

    column: str
    """The score column that was judged: the method's own, or the variant that was chosen."""
    loo_pearson: Statistic | None
    """Single samples: linear correlation of predicted and measured effects."""
    loo_spearman: Statistic | None
    """Single samples: rank correlation."""
    slope: Statistic | None
    """Single samples: measured by predicted effect; 1 where sizes are right, None for a method that predicts none."""
    lds: dict[str, Statistic | None]
    """Linear datamodelling score by share left out: rank correlation over random subsets (Ilyas et al. 2022)."""
    retrainings: int
    """Judged on."""


@dataclass(frozen=True)
class Effect:
    """What leaving samples out together was predicted to do to the loss, and did."""

    samples: int
    column: str
    """The score that called them harmful."""
    predicted: float
    measured: float


@dataclass(frozen=True)
class Fidelity:
    """`verify/fidelity.json`."""

    recorded_loss: float
    """Of the recorded training at its end."""
    baseline_loss: float
    """Of the same training run again with nobody left out; effects are differences to it."""
    ones: int
    """Single samples left out."""
    subsets: dict[str, int]
    """Random subsets left out, by share."""
    harmful: Effect | None
    """The samples called most harmful, left out together."""
    chosen: dict[str, str]
    """Column that stands for a method, by method, and for `auto`."""
    methods: dict[str, MethodFidelity]
    """By method, and `auto`."""
    columns: dict[str, MethodFidelity]
    """By score column, over all retrainings: nothing was chosen by them."""

    @classmethod
    def read(cls, run: RunFolder) -> Fidelity | None:
        """What a verification wrote; None when there was none."""
        if not run.exists(FIDELITY_FILE):
            return None
        raw = run.read_json(FIDELITY_FILE)
        return cls(
            recorded_loss=raw["recorded_loss"],
            baseline_loss=raw["baseline_loss"],
            ones=raw["ones"],
            subsets=raw["subsets"],
            harmful=Effect(**raw["harmful"]) if raw["harmful"] else None,
            chosen=raw["chosen"],
            methods={name: _method(value) for name, value in raw["methods"].items()},
            columns={name: _method(value) for name, value in raw["columns"].items()},
        )

    def write(self, run: RunFolder) -> None:
        """Keep it in the run folder."""
        run.write_json(FIDELITY_FILE, asdict(self))


def judge(
    predicted: Mapping[str, NDArray[np.float64]],
    removals: Sequence[Removal],
    losses: NDArray[np.float64],
    recorded_loss: float,
    foremost: str | None,
) -> Fidelity:
    """Compare predictions with retrainings.

    Where several columns compete to stand for a method (its variants), or for `auto` (every predicting method), one
    half of the retrainings chooses and the other judges; all judge where half are too few to choose by. The first of
    METHODS and the plain variant stay unless a rival agrees better in 90 % of the bootstrap resamples.

    Args:
        predicted: Effect on the loss of leaving one row out, [rows] by column; see `predicted_effects`.
        removals: What was left out; the first one must be nothing.
        losses: Of the retrainings, [removals].
        recorded_loss: Of the recorded training.
        foremost: The column that called samples harmful.

    Returns:
        The agreement of every method.
    """
    pairs = _Pairs(predicted, removals, losses)
    everything = {column: pairs.fidelity(column, judging=False) for column in predicted}

    def judged(column: str, competed: bool) -> MethodFidelity:
        return pairs.fidelity(column, judging=True) if competed and pairs.can_choose else everything[column]

    chosen: dict[str, str] = {}
    rivals: dict[str, list[str]] = {}
    for column in predicted:
        rivals.setdefault(base(column), []).append(column)
    methods = {}
    for method, columns in rivals.items():
        chosen[method] = pairs.best(columns)
        methods[method] = judged(chosen[method], competed=len(columns) > 1)
    if predicting := [chosen[method] for method in rivals if METHODS[method].predicts]:
        chosen[AUTO] = pairs.best(predicting)
        methods[AUTO] = judged(chosen[AUTO], competed=True)
    harmful = None
    together = [index for index, removal in enumerate(removals) if removal.kind == "harmful"]
    if foremost is not None and together:
        at = together[0]
        rows = list(removals[at].rows)
        harmful = Effect(len(rows), foremost, float(predicted[foremost][rows].sum()), float(losses[at] - losses[0]))
    shares = Counter(removal.share for removal in removals if removal.kind == "subset")
    return Fidelity(
        recorded_loss=recorded_loss,
        baseline_loss=float(losses[0]),
        ones=sum(removal.kind == "one" for removal in removals),
        subsets={f"{share:g}": count for share, count in sorted(shares.items())},
        harmful=harmful,
        chosen=chosen,
        methods=methods,
        columns=everything,
    )


class _Pairs:
    """Predicted and measured effects of the retrainings."""

    def __init__(
        self,
        predicted: Mapping[str, NDArray[np.float64]],
        removals: Sequence[Removal],
        losses: NDArray[np.float64],
    ) -> None:
        self._removals = removals
        self._measured = losses - losses[0]
        self._predicted = {
            column: np.array([values[list(removal.rows)].sum() for removal in removals])
            for column, values in predicted.items()
        }
        parts = [(pearson, self._members("one", True)), *((spearman, group) for group in self._groups(True).values())]
        self._choosing: list[tuple[Measure, NDArray[np.intp]]] = [
            (measure, members) for measure, members in parts if len(members) >= FEWEST
        ]

    def fidelity(self, column: str, judging: bool) -> MethodFidelity:
        """Agreement of a column, over the judging half or over everything."""
        half = False if judging else None
        ones, groups = self._members("one", half), self._groups(half)
        sized = METHODS[base(column)].predicts
        return MethodFidelity(
            column=column,
            loo_pearson=self._statistic(pearson, column, ones),
            loo_spearman=self._statistic(spearman, column, ones),
            slope=self._statistic(slope, column, ones) if sized else None,
            lds={share: self._statistic(spearman, column, members) for share, members in groups.items()},
            retrainings=len(ones) + sum(map(len, groups.values())),
        )

    def best(self, columns: list[str]) -> str:
        """The first column, or the rival that agrees best over the choosing half and surely better than the first."""
        first, *others = columns
        if not others or not self.can_choose:
            return first
        incumbent, incumbent_spread = self._agreement(first)
        best, agreement = first, incumbent
        for rival in others:
            value, spread = self._agreement(rival)
            if value > agreement and np.mean(spread > incumbent_spread) >= _SURE:
                best, agreement = rival, value
        return best

    @property
    def can_choose(self) -> bool:
        """Whether the choosing half is large enough to say anything; if not, nothing is chosen and all judge."""
        return bool(self._choosing)

    def _agreement(self, column: str) -> tuple[float, NDArray[np.float64]]:
        """Mean of the measures, and its bootstrap spread; a constant prediction agrees with nothing."""
        values, spreads = [], []
        for measure, members in self._choosing:
            x, y = self._predicted[column][members], self._measured[members]
            drawn = resamples(len(members))
            values.append(np.nan_to_num(measure(x, y)))
            spreads.append(np.nan_to_num(measure(x[drawn], y[drawn])))
        return float(np.mean(values)), np.mean(spreads, axis=0)

    def _statistic(self, measure: Measure, column: str, members: NDArray[np.intp]) -> Statistic | None:
        return statistic(measure, self._predicted[column][members], self._measured[members])

    def _members(self, kind: str, half: bool | None, share: float = 0.0) -> NDArray[np.intp]:
        return np.array(
            [
                index
                for index, removal in enumerate(self._removals)
                if removal.kind == kind and removal.share == share and half in (None, removal.chooses)
            ],
            dtype=np.intp,
        )

    def _groups(self, half: bool | None) -> dict[str, NDArray[np.intp]]:
        shares = sorted({removal.share for removal in self._removals if removal.kind == "subset"})
        return {f"{share:g}": self._members("subset", half, share) for share in shares}


def _method(raw: Mapping[str, Any]) -> MethodFidelity:
    def statistic_of(value: Mapping[str, float] | None) -> Statistic | None:
        return None if value is None else Statistic(**value)

    return MethodFidelity(
        column=raw["column"],
        loo_pearson=statistic_of(raw["loo_pearson"]),
        loo_spearman=statistic_of(raw["loo_spearman"]),
        slope=statistic_of(raw["slope"]),
        lds={share: statistic_of(value) for share, value in raw["lds"].items()},
        retrainings=raw["retrainings"],
    )
