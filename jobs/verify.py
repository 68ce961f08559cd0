"""Verification as a Ray job: `ray job submit --working-dir . -- python jobs/verify.py CONFIG`."""

from __future__ import annotations

from auditor import Audit
from auditor.fidelity.words import fidelity_table
from auditor.jobs import job


def verify(audit: Audit) -> list[str]:
    """Train again without chosen samples and show how well each method predicted what happened."""
    return fidelity_table(audit.verify().methods)


if __name__ == "__main__":
    job(verify)
