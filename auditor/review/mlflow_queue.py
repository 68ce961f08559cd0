"""MLflow's review queues: the only place that knows their API, which is experimental.

It speaks to the tracking store itself. What MLflow offers for notebooks would change the process's tracking URI, choose
the traces' names, and log them in the background, where an error is lost.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from auditor.errors import StageError
from auditor.report.masking import mask
from auditor.report.tracking_store import clip, connect, explained, paged
from auditor.review.items import SAMPLE_TAG, Item

_BATCH = 20
"""Items that are made and queued together: what an interruption leaves half done."""
_PAGE, _INFOS = 1000, 100
"""Items and traces that are read at once."""
_NEEDED = (
    "add_items_to_review_queue",
    "batch_get_trace_infos",
    "create_label_schema",
    "create_review_queue",
    "get_label_schema_by_name",
    "get_review_queue_by_name",
    "list_review_queue_items",
    "log_spans",
    "start_trace",
    "update_review_queue",
)
"""What a tracking store must be able to do."""


@dataclass(frozen=True)
class Question:
    """What a reviewer is asked about every item."""

    name: str
    instruction: str
    options: tuple[str, ...]
    """To choose from; none where the answer is a text."""
    comment: bool = False
    """Whether there is room for a comment."""


@dataclass(frozen=True)
class Answer:
    """What a person answered about one item."""

    question: str
    """Its name."""
    value: str
    comment: str
    reviewer: str
    time: datetime
    """In UTC."""
    valid: bool
    """Whether it stands; False once it was replaced by another one."""


@dataclass(frozen=True)
class Entry:
    """One item of the queue with what was said about it."""

    item_id: str
    sample_id: str
    declined: bool
    """Whether a person has put it aside as not to be reviewed."""
    answers: tuple[Answer, ...]
    """In no order; those that were replaced by others are among them."""


class MlflowQueue:
    """One review queue, found by its name or made; making it again changes nothing.

    Args:
        tracking_uri: MLflow's store or server.
        experiment_id: The experiment it belongs to.
        name: Its name there.

    Raises:
        InputError: The store cannot be opened.
        StageError: It has no review queues.
    """

    def __init__(self, tracking_uri: str, experiment_id: str, name: str) -> None:
        self._uri, self._experiment_id, self.name = tracking_uri, experiment_id, name
        connect(tracking_uri)
        with self._explained():
            from mlflow.tracing.client import TracingClient

            self._store: Any = TracingClient(tracking_uri).store
        missing = [name for name in _NEEDED if not hasattr(self._store, name)]
        if missing:
            raise StageError(f"this MLflow has no review queues as version 3.17 has them: {missing[0]} is missing")

    @property
    def page(self) -> str | None:
        """Address of the experiment's queues in a server's interface; None without a server."""
        uri = self._uri.rstrip("/")
        if not uri.startswith(("http://", "https://")):
            return None
        return f"{mask(uri)}/#/experiments/{self._experiment_id}/review-queue"

    def make(self, questions: Sequence[Question], reviewers: Sequence[str]) -> str:
        """Make the queue and its questions where they are not there yet, and assign it.

        Args:
            questions: In the order in which they are asked; they cannot change once a queue has items.
            reviewers: At most 10 names; without any, an assignment made in MLflow stays.

        Returns:
            MLflow's id of the queue.

        Raises:
            StageError: MLflow cannot do it, or is away.
        """
        with self._explained():
            # The pane shows the newest question first.
            schemas = [self._question(question) for question in reversed(questions)]
            queue = self._found() or self._made(schemas[::-1])
            wanted = sorted({name.strip().lower() for name in reviewers})
            if wanted and sorted(queue.users) != wanted:
                self._store.update_review_queue(queue.queue_id, users=wanted)
        return str(queue.queue_id)

    def item_ids(self) -> set[str]:
        """Ids of all items in the queue; none where there is no queue.

        Raises:
            StageError: MLflow is away.
        """
        with self._explained():
            queue = self._found()
            return set() if queue is None else {item.item_id for item in self._items(queue.queue_id)}

    def add(self, queue_id: str, items: Sequence[Item], run_id: str) -> None:
        """Make items and put them into the queue.

        Args:
            queue_id: As `make` gives it.
            items: None of them in the queue; the first comes first there.
            run_id: The MLflow run that they belong to.

        Raises:
            StageError: MLflow went away; what was added stays.
        """
        now = int(1000 * time.time())
        # The pane shows the newest trace first, so each is dated a little before the one above it.
        ages = {item.item_id: age for age, item in enumerate(items)}
        with self._explained():
            for start in reversed(range(0, len(items), _BATCH)):
                batch = items[start : start + _BATCH]
                for item in batch:
                    self._store.start_trace(self._trace(item, run_id, now - ages[item.item_id]))
                self._store.log_spans(self._experiment_id, [_span(item, now - ages[item.item_id]) for item in batch])
                self._store.add_items_to_review_queue(queue_id, item_ids=[item.item_id for item in batch])

    def entries(self) -> list[Entry]:
        """All items in the queue; none where there is no queue.

        Raises:
            StageError: MLflow is away.
        """
        found = []
        with self._explained():
            queue = self._found()
            status = {} if queue is None else {item.item_id: item.status for item in self._items(queue.queue_id)}
            item_ids = sorted(status)
            for start in range(0, len(item_ids), _INFOS):
                for info in self._store.batch_get_trace_infos(item_ids[start : start + _INFOS]):
                    answers = tuple(_answer(given) for given in info.assessments if _is_human(given))
                    # A person may have put other traces into the queue.
                    if SAMPLE_TAG in info.tags:
                        declined = status[info.trace_id] == "declined"
                        found.append(Entry(info.trace_id, info.tags[SAMPLE_TAG], declined, answers))
        return found

    def _found(self) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return self._store.get_review_queue_by_name(self._experiment_id, name=self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def _made(self, schema_ids: list[str]) -> Any:
        """A new queue; another process may have made it in between."""
        from mlflow.exceptions import MlflowException

        try:
            return self._store.create_review_queue(
                self._experiment_id, name=self.name, queue_type="custom", schema_ids=schema_ids
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return self._found()

    def _question(self, question: Question) -> str:
        """Id of the question in this experiment; where its name is taken by another one, it gets a longer name."""
        from mlflow.exceptions import MlflowException
        from mlflow.genai.label_schemas import InputCategorical, InputText

        kind = InputCategorical(options=list(question.options)) if question.options else InputText()
        digest = hashlib.sha256(json.dumps(question.options).encode()).hexdigest()[:6]
        for name in (question.name, f"{question.name} ({digest})"):
            try:
                made = self._store.create_label_schema(
                    self._experiment_id,
                    name=name,
                    type="feedback",
                    input=kind,
                    instruction=question.instruction,
                    enable_comment=question.comment,
                )
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                made = self._store.get_label_schema_by_name(self._experiment_id, name)
            if made.input == kind:
                return str(made.schema_id)
        raise StageError(f"MLflow experiment {self._experiment_id}: its questions named {question.name} are not ours")

    def _items(self, queue_id: str) -> Iterator[Any]:
        return paged(lambda token: self._store.list_review_queue_items(queue_id, max_results=_PAGE, page_token=token))

    def _trace(self, item: Item, run_id: str, made: int) -> Any:
        from mlflow.entities import TraceInfo, TraceLocation, TraceState

        return TraceInfo(
            trace_id=item.item_id,
            trace_location=TraceLocation.from_experiment_id(self._experiment_id),
            request_time=made,
            state=TraceState.OK,
            execution_duration=0,
            request_preview=item.question,
            response_preview=item.evidence,
            tags={"mlflow.traceName": clip(item.sample_id, 200), **item.tags},
            trace_metadata={"mlflow.sourceRun": run_id},
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            with explained(self._uri):
                yield
        except (ImportError, NotImplementedError) as error:
            raise StageError(f"this MLflow has no review queues as version 3.17 has them ({error})") from error


def _span(item: Item, made: int) -> Any:
    """What the pane needs beside a trace's texts: one span that holds the facts."""
    from mlflow.entities import Span

    number = bytes.fromhex(item.item_id.removeprefix("tr-"))
    attributes = {
        "mlflow.traceRequestId": item.item_id,
        "mlflow.spanInputs": {name: item.facts[name] for name in ("sample_id", "label")},
        "mlflow.spanOutputs": {name: value for name, value in item.facts.items() if name not in ("sample_id", "label")},
        "mlflow.spanType": "UNKNOWN",
    }
    return Span.from_dict(
        {
            "trace_id": base64.b64encode(number).decode(),
            "span_id": base64.b64encode(number[:8]).decode(),
            "parent_span_id": "",
            "name": clip(item.sample_id, 200),
            "start_time_unix_nano": made * 10**6,
            "end_time_unix_nano": made * 10**6,
            "status": {"code": "STATUS_CODE_OK", "message": ""},
            "attributes": {name: json.dumps(value) for name, value in attributes.items()},
            "events": [],
        }
    )


def _is_human(given: Any) -> bool:
    return given.source.source_type == "HUMAN" and given.feedback is not None and isinstance(given.feedback.value, str)


def _answer(given: Any) -> Answer:
    moment = datetime.fromtimestamp(given.last_update_time_ms / 1000, UTC)
    # MLflow leaves it out where nothing was ever replaced.
    valid = given.valid is not False
    return Answer(given.name, given.feedback.value, given.rationale or "", given.source.source_id, moment, valid)
