"""A whole audit as a Ray job: `ray job submit --working-dir . -- python jobs/audit.py CONFIG`."""

from __future__ import annotations

from auditor import Audit
from auditor.jobs import job
from auditor.report import verdict


def audit(audit: Audit) -> list[str]:
    """Train, score and report; what was interrupted is resumed."""
    return verdict(audit.run())


if __name__ == "__main__":
    job(audit)
