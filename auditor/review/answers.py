"""What people answered in an audit's review queue, as verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from auditor.config import Config
from auditor.errors import StageError
from auditor.report.masking import mask
from auditor.review.evidence import Ranked
from auditor.review.mlflow_queue import Answer, Entry, MlflowQueue
from auditor.review.verdicts import WORDS, Verdict, with_evidence
from auditor.storage import RunFolder

VERDICT, NEW_LABEL = "verdict", "new label"
"""Names of the two questions, or how they begin."""


def open_queue(config: Config, run: RunFolder) -> tuple[MlflowQueue, str]:
    """An audit's queue in MLflow and the id of its MLflow run; nothing is made.

    Args:
        config: Says where MLflow is.
        run: The audit's run folder.

    Raises:
        InputError: The tracking store cannot be opened.
        StageError: The audit is not in this tracking store, or MLflow has no review queues.
    """
    uri = config.mlflow.tracking_uri
    logged = run.read_json("mlflow.json") if run.exists("mlflow.json") else {}
    if logged.get("tracking_uri") != mask(uri):
        raise StageError(f"{run}: is not logged to MLflow at {mask(uri)}; auditor run does that")
    run_id = str(logged["run_id"])
    return MlflowQueue(uri, str(logged["experiment_id"]), f"flagged by run {run_id[:8]}"), run_id


def answered(config: Config, run: RunFolder) -> list[Verdict]:
    """The verdicts that stand in MLflow for an audit, with what their reviewers saw.

    Args:
        config: Says where MLflow is.
        run: The audit's run folder, reported.

    Raises:
        InputError: The tracking store cannot be opened.
        StageError: The audit is not in this tracking store, or MLflow went away.
    """
    queue, _ = open_queue(config, run)
    given = from_answers(queue.entries(), run.read_json("dataset.json")["class_names"])
    return with_evidence(given, Ranked.read(run).evidence(sorted({verdict.sample_id for verdict in given})))


def from_answers(entries: Iterable[Entry], class_names: Sequence[str]) -> list[Verdict]:
    """Verdicts from the answers to the two questions; answers with another word than ours are passed over.

    Args:
        entries: Of the queue.
        class_names: What a new label may be; another text is kept in the comment.
    """
    verdicts = []
    for entry in entries:
        labels = [answer for answer in entry.answers if answer.question.startswith(NEW_LABEL)]
        for answer in entry.answers:
            if not answer.question.startswith(VERDICT) or answer.value not in WORDS:
                continue
            label = _label_of(answer, labels) if answer.value == "relabel" else None
            known = label is not None and label.value in class_names
            comment = answer.comment
            if label is not None and not known:
                comment = f"{comment} (new label {label.value!r} is no class)".strip()
            verdicts.append(
                Verdict(
                    sample_id=entry.sample_id,
                    verdict=answer.value,
                    new_label=label.value if label is not None and known else None,
                    comment=comment,
                    reviewer=answer.reviewer,
                    time=answer.time if label is None else max(answer.time, label.time),
                    source="mlflow",
                    item_id=entry.item_id,
                )
            )
    return verdicts


def _label_of(verdict: Answer, labels: Sequence[Answer]) -> Answer | None:
    """The same reviewer's new label that belongs to a relabel.

    To a verdict that stands, the newest label that stands; to one that was replaced, the nearest in time.
    """
    own = [label for label in labels if label.reviewer == verdict.reviewer]
    if verdict.valid:
        return max((label for label in own if label.valid), key=lambda label: label.time, default=None)
    return min(own, key=lambda label: abs(label.time - verdict.time), default=None)
