"""Training as a Ray job: `ray job submit --working-dir . -- python jobs/train.py CONFIG`."""

from __future__ import annotations

from auditor import Audit
from auditor.jobs import job


def train(audit: Audit) -> list[str]:
    """Train with SAM and record the ledger; what was interrupted is resumed."""
    trained = audit.train()
    return [f"{trained.steps} steps are in {audit.folder}."]


if __name__ == "__main__":
    job(train)
