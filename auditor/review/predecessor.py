"""The audit before this one: what was decided there is not asked again."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import yaml

from auditor.config import RECORDED, Config, parse_config
from auditor.errors import InputError, StageError
from auditor.report.masking import mask
from auditor.report.tracking_store import connect, explained, paged
from auditor.review.answers import answered
from auditor.review.evidence import RANKED_FILE
from auditor.review.verdicts import Verdict, merged, read_verdicts, write_verdicts
from auditor.sections.running import AUTO
from auditor.storage import RunFolder

log = logging.getLogger("auditor")

_PAGE = 50
"""How many earlier runs of an experiment are asked for at once."""


def predecessor(config: Config, run: RunFolder) -> RunFolder | None:
    """The run folder of the audit before this one; None without one.

    Args:
        config: The audit; `review.predecessor` names a run folder, or says whether to look for one in MLflow.
        run: Its run folder.

    Raises:
        InputError: The one that is named cannot be read, holds no report, or is this audit's own folder.
    """
    given = config.review.predecessor
    if given is None:
        return None
    if given != AUTO:
        return certain_predecessor(config, run)
    try:
        return certain_predecessor(config, run)
    except (InputError, StageError) as error:
        log.warning("not compared with the audit before this one: %s", error)
        return None


def certain_predecessor(config: Config, run: RunFolder) -> RunFolder | None:
    """The same for what may not be left undone: None only where MLflow knows no audit before this one.

    Args:
        config: The audit; `review.predecessor` is not null.
        run: Its run folder, in MLflow if the predecessor is to be looked for there.

    Raises:
        InputError: The one that is named is unusable: see `predecessor`; or the tracking store cannot be opened.
        StageError: MLflow does not answer.
    """
    given = str(config.review.predecessor)
    if given == AUTO:
        return next(_earlier(config, run), None)
    key = f"review.predecessor {mask(given)}"
    before = RunFolder(given)
    if before.uri == run.uri:
        raise InputError(f"{key}: is this audit's own run folder")
    try:
        reported = before.exists(RANKED_FILE)
    except OSError as error:
        raise InputError(f"{key}: cannot be read ({error})") from error
    if not reported:
        raise InputError(f"{key}: is no run folder with a report")
    return before


def is_logged(config: Config, run: RunFolder) -> bool:
    """Whether an audit stands in the configured tracking store, where the one before it can be looked for."""
    logged = run.read_json("mlflow.json") if run.exists("mlflow.json") else {}
    return bool(logged.get("tracking_uri") == mask(config.mlflow.tracking_uri))


def earlier_verdicts(config: Config, before: RunFolder) -> list[Verdict]:
    """What was decided in an earlier audit: its history, and what stands in MLflow and nobody has read yet.

    Args:
        config: This audit: only its own tracking store is asked.
        before: The earlier one's run folder, reported.
    """
    known = read_verdicts(before)
    if not before.exists("mlflow.json"):
        return known
    if before.read_json("mlflow.json")["tracking_uri"] != mask(config.mlflow.tracking_uri):
        log.warning(
            "review: %s is in another tracking store, of whose verdicts those count that auditor review read", before
        )
        return known
    try:
        return merged(answered(config, before), known)
    except (InputError, StageError) as error:
        log.warning("review: of the verdicts on %s those count that auditor review read (%s)", before, error)
        return known


def carry_over(run: RunFolder, earlier: list[Verdict]) -> None:
    """Take the verdicts of an earlier audit into a run's history; those that are there already stay as they are."""
    known = read_verdicts(run)
    together = merged(earlier, known)
    if together != known:
        write_verdicts(run, together)


def _earlier(config: Config, run: RunFolder) -> Iterator[RunFolder]:
    """Run folders of earlier finished audits of the same rows' source in the same experiment, the latest first.

    Sources are compared as they are configured: verdicts on samples of another table must never be applied here, and
    ids alone do not tell tables apart.
    """
    if not is_logged(config, run):
        return
    logged, uri = run.read_json("mlflow.json"), config.mlflow.tracking_uri
    client = connect(uri)
    with explained(uri):
        began = client.get_run(logged["run_id"]).info.start_time
    wanted = f"attributes.status = 'FINISHED' and attributes.start_time < {began}"
    experiments, order = [logged["experiment_id"]], ["attributes.start_time DESC"]

    def page(token: str | None) -> Any:
        with explained(uri):
            return client.search_runs(experiments, wanted, max_results=_PAGE, order_by=order, page_token=token)

    for candidate in paged(page):
        folder = candidate.data.tags.get("auditor.run_folder")
        if folder is None or folder == mask(run.uri):
            continue
        before = _audit_of_the_same_rows(config, folder)
        if before is not None:
            yield before


def _audit_of_the_same_rows(config: Config, folder: str) -> RunFolder | None:
    """A run folder, if it can still be read and its rows come from the same place; None otherwise."""
    try:
        before = RunFolder(folder)
        if not before.exists(RANKED_FILE):
            return None
        kept = yaml.safe_load(before.read_bytes("config.yaml"))
        data = parse_config({key: value for key, value in kept.items() if key not in RECORDED}).data
    except (OSError, InputError):  # moved, removed, or of another release
        return None
    same = (data.source, data.columns) == (config.data.source, config.data.columns)
    return before if same else None
