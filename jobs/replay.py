"""Exact influence as a Ray job: `ray job submit --working-dir . -- python jobs/replay.py CONFIG`."""

from __future__ import annotations

from auditor import Audit
from auditor.jobs import job


def replay(audit: Audit) -> list[str]:
    """Sweep the recorded training backwards; what was interrupted is resumed."""
    drift = max(audit.replay().drift.values())
    return [f"The influence of every training row is in {audit.folder}/replay; the largest drift is {drift:.1e}."]


if __name__ == "__main__":
    job(replay)
