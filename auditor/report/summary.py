"""What an audit found, in a few numbers and a few sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from auditor.fidelity import Fidelity, MethodFidelity
from auditor.fidelity.words import sentences as fidelity_sentences
from auditor.methods import METHODS, base
from auditor.report.changes import Changes
from auditor.report.detection import Detection
from auditor.report.ranking import Ranking
from auditor.storage import RunFolder

_UNVERIFIED = "In this run it has not been compared with real retrainings."
_CHAOTIC = 10.0
"""Growth of the cotangent from which on a report warns: good runs grow 2 to 3-fold, a hopeless one 35-fold."""


_REPLAY = "replay/replay.json"


@dataclass(frozen=True)
class TopSample:
    """One line of the ranking."""

    rank: int
    sample_id: str
    label: str
    suggested_label: str
    suggested_probability: float
    harm: float
    flagged: bool
    true_label: str | None


@dataclass(frozen=True)
class Summary:
    """Result of the report stage; `to_json` is `report/summary.json`."""

    rows: int
    flagged: int
    test_accuracy: float | None
    validation_loss: float | None
    """Mean over the validation set, in nats."""
    seconds: dict[str, float]
    """Time by stage."""
    detection: dict[str, Detection]
    """By method; empty where the truth is unknown."""
    rank_by: str
    predicted_effect: float | None
    """Sum of the flagged samples' harm: the predicted fall of the query's loss in nats; None for a mere detector."""
    disagreeing: int
    """Flagged samples whose suggested label is not the given one."""
    wrong: int | None
    """Labels known to be wrong; None without truth."""
    flagged_wrong: int | None
    """Flagged samples among them."""
    top: tuple[TopSample, ...]
    """The ten most harmful samples."""
    folder: str
    """Path or URI of the report's folder."""
    query: str
    """What influence is measured on, as a sentence calls it: `validation loss`, unless a query was chosen."""
    query_loss: float
    """Its value at the end of training, in nats."""
    predictability: float | None = None
    """Growth of the cotangent in exact replay; None without one."""
    fidelity: Fidelity | None = None
    """What real retrainings said; None without any."""
    rounding: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By method: what computing in fewer bits cost, as evaluation.json has it; empty where nothing was."""
    changes: Changes | None = None
    """What changed since the audit before this one; None without one."""

    @property
    def html(self) -> str:
        """Path or URI of report.html."""
        return f"{self.folder}/report.html"

    def to_json(self) -> dict[str, Any]:
        """The fields of `report/summary.json`; what no stage has measured yet is null."""
        return {
            "rows": self.rows,
            "flagged": self.flagged,
            "test_accuracy": self.test_accuracy,
            "validation_loss": self.validation_loss,
            "seconds": self.seconds,
            "detection": {
                method: {"auroc": found.auroc, "average_precision": found.average_precision, "found": found.found}
                for method, found in self.detection.items()
            },
            "fidelity": None if self.fidelity is None else _fidelity(self.fidelity),
            "predictability": self.predictability,
            "comparison": None if self.changes is None else self.changes.to_json(),
        }


def summarise(ranking: Ranking, detection: Mapping[str, Detection], run: RunFolder) -> Summary:
    """Put a summary together.

    Args:
        ranking: The ranked table.
        detection: Of the same ranking.
        run: The run folder; evaluation.json must be there, stages.json may be.
    """
    evaluation = run.read_json("evaluation.json")
    stages = run.read_json("stages.json") if run.exists("stages.json") else {"seconds": {}}
    flagged, wrong = ranking.flagged, ranking.wrong
    top = ranking.table.slice(0, 10).to_pylist()
    fields = TopSample.__dataclass_fields__
    return Summary(
        rows=len(ranking.rows),
        flagged=int(flagged.sum()),
        test_accuracy=evaluation.get("test_accuracy"),
        validation_loss=evaluation.get("validation_loss"),
        seconds={str(stage): float(seconds) for stage, seconds in stages["seconds"].items()},
        detection=dict(detection),
        rank_by=ranking.rank_by,
        predicted_effect=float(ranking.harm(ranking.rank_by)[flagged].sum())
        if METHODS[base(ranking.rank_by)].predicts
        else None,
        disagreeing=int(np.sum(flagged & (ranking.suggested != ranking.given))),
        wrong=None if wrong is None else int(wrong.sum()),
        flagged_wrong=None if wrong is None else int(np.sum(wrong & flagged)),
        top=tuple(TopSample(**{name: row.get(name) for name in fields}) for row in top),
        folder=f"{run}/report",
        query=evaluation["query"],
        query_loss=evaluation["query_loss"],
        predictability=run.read_json(_REPLAY)["predictability"] if run.exists(_REPLAY) else None,
        fidelity=Fidelity.read(run),
        rounding=evaluation.get("rounding", {}),
    )


def caveat(summary: Summary) -> str | None:
    """How far predicted sizes can be trusted; None where nothing is predicted."""
    unverified = _UNVERIFIED if summary.fidelity is None else ""
    match summary.rank_by:
        case "replay":
            grown = summary.predictability or 0.0
            calm = (
                f"This training is too chaotic for that to reach far: small changes grew {grown:.3g}-fold."
                if grown > _CHAOTIC
                else f"Small changes grew {grown:.2g}-fold through this training, which is calm."
            )
            text = (
                "Replay differentiates the whole training: exact for a small change of one sample's weight, an "
                f"approximation for removing it, a coarser one for removing many at once. {calm} {unverified}"
            )
        case "hif_full" | "hif_fast" | "hif" | "influence" | "ekfac" as method:
            text = (
                f"{method} takes the end of training for a minimum and curvature for constant: an approximation even "
                f"for a small change of one sample's weight. {unverified}"
            )
        case method if METHODS[method].predicts:
            text = (
                f"{method} ranks samples, it does not measure them: predicted sizes can be off by a factor of fifty "
                f"or more. {unverified} Trust the order, not the amounts."
            )
        case _:
            return None
    return " ".join(text.split())


def verdict(summary: Summary) -> list[str]:
    """The findings as plain sentences, the most important first."""
    count, rows = summary.flagged, f"{summary.rows:,}"
    sentences = []
    if count == 0:
        sentences.append(f"None of the {rows} training samples is flagged.")
    else:
        share = f"{summary.flagged / summary.rows:.1%}"
        sentences.append(f"{count:,} of {rows} training samples ({share}) {_are(count)} flagged.")
    if summary.predicted_effect is None:
        sentences.append(
            f"Samples are ranked by {summary.rank_by}, which says how wrong a label looks; it predicts no effect of "
            "removing a sample."
        )
    elif count == 0:
        sentences.append(f"No removal is predicted to lower {summary.query}.")
    else:
        sentences.append(_effect(summary.predicted_effect, summary.query, summary.query_loss))
    if summary.fidelity is not None:
        sentences += fidelity_sentences(summary.fidelity, summary.rank_by)
    if summary.rounding:
        sentences.append(_rounded(summary.rounding))
    if count:
        sentences.append(
            f"For {summary.disagreeing:,} of the flagged samples the model suggests another label than the given one."
        )
    if summary.wrong is not None and summary.flagged_wrong is not None:
        sentences.append(
            f"By the truth kept aside, {summary.flagged_wrong:,} of the flagged labels {_are(summary.flagged_wrong)} "
            f"wrong; {summary.wrong:,} {_are(summary.wrong)} in the whole training set."
        )
    if summary.test_accuracy is not None:
        sentences.append(f"The audited model classifies {summary.test_accuracy:.1%} of the test set correctly.")
    if summary.changes is not None:
        sentences.append(summary.changes.sentence)
    return sentences


def _fidelity(found: Fidelity) -> dict[str, Any]:
    """By method: loo_pearson, loo_spearman, slope, lds (of the smallest removals), intervals, retrainings, column."""
    first = next(iter(found.subsets), None)

    def of(method: MethodFidelity) -> dict[str, Any]:
        statistics = {
            "loo_pearson": method.loo_pearson,
            "loo_spearman": method.loo_spearman,
            "slope": method.slope,
            "lds": None if first is None else method.lds[first],
            **{f"lds@{share}": value for share, value in method.lds.items() if share != first},
        }
        return {
            **{name: value and value.value for name, value in statistics.items()},
            "intervals": {name: [value.low, value.high] for name, value in statistics.items() if value},
            "retrainings": method.retrainings,
            "column": method.column,
        }

    return {name: of(method) for name, method in found.methods.items()}


def _effect(effect: float, query: str, loss: float) -> str:
    text = f"Removing all flagged samples is predicted to lower {query} by {effect:.3g}"
    if effect < loss:
        return f"{text}, from {loss:.3g} now."
    return f"{text}; as it is only {loss:.3g} now, this size cannot be taken literally."


def _rounded(rounding: Mapping[str, Mapping[str, float]]) -> str:
    rows = max(round(lost["rows"]) for lost in rounding.values())
    typical, rank = max(lost["typical"] for lost in rounding.values()), min(lost["rank"] for lost in rounding.values())
    return (
        f"Computed in fewer bits than the parameters have: {', '.join(rounding)}. Over {rows} samples that moved "
        f"{'it' if len(rounding) == 1 else 'them'} by {typical:.1%} and kept the ranks (correlation {rank:.5f})."
    )


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
