"""The audit before this one: what was decided there is not asked again."""

from __future__ import annotations

from auditor.config import Config
from auditor.errors import InputError
from auditor.report.masking import mask
from auditor.review.evidence import RANKED_FILE
from auditor.review.verdicts import merged, read_verdicts, write_verdicts
from auditor.storage import RunFolder


def predecessor(config: Config) -> RunFolder | None:
    """The run folder that `review.predecessor` names; None without one.

    Raises:
        InputError: It cannot be read, holds no report, or is this audit's own folder.
    """
    given = config.review.predecessor
    if given is None:
        return None
    key = f"review.predecessor {mask(given)}"
    before = RunFolder(given)
    if before.uri == RunFolder(config.run).uri:
        raise InputError(f"{key}: is this audit's own run folder")
    try:
        reported = before.exists(RANKED_FILE)
    except OSError as error:
        raise InputError(f"{key}: cannot be read ({error})") from error
    if not reported:
        raise InputError(f"{key}: is no run folder with a report")
    return before


def carry_over(run: RunFolder, before: RunFolder) -> None:
    """Take the verdicts of an earlier audit into a run's history; those that are there already stay as they are."""
    earlier, known = read_verdicts(before), read_verdicts(run)
    together = merged(earlier, known)
    if together != known:
        write_verdicts(run, together)
