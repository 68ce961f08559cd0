"""Verdicts tried out: the recorded training run again with them, before anybody ships the cleaned rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from auditor.errors import InputError, StageError
from auditor.fidelity.predictions import predicted_effects
from auditor.fidelity.removals import Removal
from auditor.fidelity.verification import result_file, trusted_column
from auditor.fidelity.words import expected
from auditor.review.cleaning import decisions
from auditor.storage import RunFolder

CHECK_FILE = "review/check.json"


@dataclass(frozen=True)
class Outcome:
    """The query's loss (nats) and accuracy (share) at the end of a training."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class Check:
    """What the verdicts do, same order and seeds."""

    masked_samples: int
    """Removed or relabelled."""
    relabelled: int
    """Relabelled among them."""
    before: Outcome
    """The recorded training, run again."""
    without: Outcome
    """Without the samples that are removed or relabelled."""
    predicted: float | None
    """Loss that the scores predicted for that; None when no score predicts an effect."""
    column: str | None
    """The score that predicted."""
    applied: Outcome
    """Removed samples left out, relabelled ones with their new labels."""
    query: str
    """Whose loss and accuracy these are."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def sentences(self) -> list[str]:
        """For a person who will ship the cleaned rows, or not."""
        count = self.masked_samples
        samples = f"the {count:,} samples" if count > 1 else "the sample"
        without = (
            f"Trained again without {samples} to remove or relabel: {_change(self.query, self.before, self.without)}"
        )
        if self.predicted is not None:
            without += f"; by {self.column}, {expected(self.predicted)}"
        told = [f"{without}."]
        if self.relabelled:
            told.append(f"Trained again with the new labels: {_change(self.query, self.before, self.applied)}.")
        return told


def planned_check(run: RunFolder) -> list[Removal]:
    """The trainings that a check needs: as recorded, without the samples in question, and with the verdicts applied.

    Args:
        run: The run folder, reported and reviewed.

    Raises:
        InputError: No verdict removes or relabels a sample.
        StageError: The run has no report.
    """
    applied, _ = decisions(run)
    train = run.read_table("dataset/train", columns=["row", "sample_id"])
    places = dict(zip(train["sample_id"].to_pylist(), train["row"].to_pylist(), strict=True))
    classes = {str(name): index for index, name in enumerate(run.read_json("dataset.json")["class_names"])}
    removed = sorted(places[sample_id] for sample_id, verdict in applied.items() if verdict.verdict == "remove")
    relabelled = sorted(
        (places[sample_id], classes[verdict.new_label])
        for sample_id, verdict in applied.items()
        if verdict.verdict == "relabel" and verdict.new_label is not None and not verdict.holds(verdict.new_label)
    )
    if not removed and not relabelled:
        raise InputError(f"{run}: no verdict removes or relabels a sample, so there is nothing to check")
    masked = tuple(sorted([*removed, *(row for row, _ in relabelled)]))
    return [
        Removal("none", ()),
        Removal("verdicts", masked),
        Removal("verdicts", tuple(removed), relabelled=tuple(relabelled)),
    ]


def checked(run: RunFolder, removals: list[Removal]) -> Check:
    """What the trainings found; writes review/check.json.

    Args:
        run: The run folder.
        removals: As `planned_check` gave them, all of them retrained.

    Raises:
        StageError: A training ended without a finite loss.
    """
    before, without, applied = (_outcome(run, removal) for removal in removals)
    masked = removals[1]
    predicted = predicted_effects(run)
    column = trusted_column(run, predicted)
    effect = None if column is None else float(predicted[column][list(masked.rows)].sum())
    found = Check(
        masked_samples=len(masked.rows),
        relabelled=len(removals[2].relabelled),
        before=before,
        without=without,
        predicted=None if effect is None else before.loss + effect,
        column=column,
        applied=applied,
        query=str(run.read_json("evaluation.json")["query"]),
    )
    run.write_json(CHECK_FILE, found.to_json())
    return found


def _outcome(run: RunFolder, removal: Removal) -> Outcome:
    kept = run.read_json(result_file(removal))
    if kept["loss"] is None:
        raise StageError("the training with the verdicts ends without a finite loss")
    return Outcome(float(kept["loss"]), float(kept["accuracy"]))


def _change(query: str, before: Outcome, after: Outcome) -> str:
    moved = "falls" if after.loss < before.loss else "rises"
    loss = f"{moved} from {before.loss:.3g} to {after.loss:.3g}" if after.loss != before.loss else "stays"
    accuracy = f"goes from {before.accuracy:.1%} to {after.accuracy:.1%}"
    if after.accuracy == before.accuracy:
        accuracy = f"stays at {after.accuracy:.1%}"
    return f"{query} {loss}, accuracy {accuracy}"
