"""Sentences from actors, whose own logs nobody reads, to the terminal of the driver."""

from __future__ import annotations

import hashlib
import logging

from auditor.storage import RunFolder

REMARKS = ".remarks"

log = logging.getLogger("auditor")


def remark(run: RunFolder, sentence: str) -> None:
    """Leave a sentence for the driver; the same one from many actors is one sentence.

    Args:
        run: The run folder.
        sentence: For a person.
    """
    name = hashlib.sha256(sentence.encode()).hexdigest()[:16]
    run.write_json(f"{REMARKS}/{name}.json", {"sentence": sentence})


def pass_on(run: RunFolder, stage: str) -> None:
    """Log what actors have left, as warnings of a stage, and remove it."""
    for name in run.names(REMARKS):
        log.warning("%s: %s", stage, run.read_json(f"{REMARKS}/{name}")["sentence"])
    run.remove(REMARKS)
