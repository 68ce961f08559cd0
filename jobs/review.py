"""Reading verdicts back as a Ray job: `ray job submit --working-dir . -- python jobs/review.py CONFIG`."""

from __future__ import annotations

from auditor import Audit
from auditor.jobs import job
from auditor.review.review import sentences


def review(audit: Audit) -> list[str]:
    """Take the reviewers' verdicts from MLflow and say where the review stands."""
    return sentences(audit.review())


if __name__ == "__main__":
    job(review)
