from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from auditor.errors import InputError, StageError
from auditor.fidelity.removals import Removal
from auditor.fidelity.verification import result_file
from auditor.review.check import CHECK_FILE, Check, Outcome, checked, planned_check
from auditor.review.evidence import Evidence
from auditor.review.verdicts import Verdict, write_verdicts

MOMENT = datetime(2026, 11, 25, tzinfo=UTC)


def decide(audit, run, *said):
    """(row, verdict, new label) about rows as they are labelled."""
    write_verdicts(
        run,
        [
            Verdict(
                audit.sample_ids[row],
                word,
                new,
                "",
                "ada",
                MOMENT,
                "csv",
                None,
                Evidence(audit.class_names[audit.label[row]], "one", 1),
            )
            for row, word, new in said
        ],
    )


def other(audit, row):
    return (int(audit.label[row]) + 1) % len(audit.class_names)


def test_removed_and_relabelled_rows_are_masked_and_then_the_verdicts_applied(audit, run):
    classes = [other(audit, row) for row in range(40)]
    names = [audit.class_names[label] for label in classes]
    same = audit.class_names[audit.label[9]]
    said = [(7, "remove", None), (3, "relabel", names[3]), (5, "keep", None), (9, "relabel", same), (1, "unsure", None)]
    decide(audit, run, *said)
    recorded, masked, applied = planned_check(run)
    assert (recorded.rows, recorded.relabelled) == ((), ())
    assert (masked.rows, masked.relabelled) == ((3, 7), ())
    assert (applied.rows, applied.relabelled) == ((7,), ((3, classes[3]),))
    assert len({removal.key for removal in (recorded, masked, applied)}) == 3
    assert applied.key != replace(applied, relabelled=((3, (classes[3] + 1) % 4),)).key


def test_what_is_relabelled_is_never_taken_for_what_is_left_out():
    assert Removal("verdicts", (5,), relabelled=((7, 9),)).key != Removal("verdicts", (5, 7, 9)).key
    assert Removal("verdicts", (5, 7)).key == Removal("subset", (5, 7), 0.05).key


def test_without_a_verdict_that_changes_a_row_there_is_nothing_to_check(audit, run):
    decide(audit, run, (5, "keep", None), (9, "relabel", audit.class_names[audit.label[9]]))
    with pytest.raises(InputError, match="nothing to check"):
        planned_check(run)


def test_measured_stands_beside_predicted(audit, run):
    decide(audit, run, (7, "remove", None), (3, "relabel", audit.class_names[other(audit, 3)]))
    removals = planned_check(run)
    for removal, loss, accuracy in zip(removals, (0.5, 0.45, 0.4), (0.9, 0.92, 0.93), strict=True):
        run.write_json(result_file(removal), {"rows": list(removal.rows), "loss": loss, "accuracy": accuracy})
    found = checked(run, removals)
    assert found.predicted == pytest.approx(0.5 + audit.scores["gif"][[3, 7]].sum())
    assert (found.masked_samples, found.relabelled, found.column) == (2, 1, "gif")
    without, applied = found.sentences()
    assert "without the 2 samples to remove or relabel: validation loss falls from 0.5 to 0.45" in without
    assert f"accuracy goes from 90.0% to 92.0%; by gif, {found.predicted:.3g} was predicted." in without
    assert applied.startswith("Trained again with the new labels: validation loss falls from 0.5 to 0.4")
    assert run.read_json(CHECK_FILE)["applied"] == {"loss": 0.4, "accuracy": 0.93}


def test_what_does_not_change_is_said_to_stay_and_no_loss_below_zero_is_shown():
    same = Outcome(0.5, 0.9)
    (told,) = Check(1, 0, same, same, -0.2, "gif", same, "validation loss").sentences()
    assert told == (
        "Trained again without the sample to remove or relabel: validation loss stays, accuracy stays at 90.0%; "
        "by gif, less than nothing was predicted, which cannot be."
    )


def test_a_training_that_diverged_is_no_outcome(audit, run):
    decide(audit, run, (7, "remove", None))
    removals = planned_check(run)
    for removal, loss in zip(removals, (0.5, None, None), strict=True):
        run.write_json(result_file(removal), {"rows": list(removal.rows), "loss": loss, "accuracy": 0.1})
    with pytest.raises(StageError, match="without a finite loss"):
        checked(run, removals)
