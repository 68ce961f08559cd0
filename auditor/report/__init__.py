"""Ranking, figures, HTML and tracking of an audit; heavy libraries are imported where they are used."""

from auditor.report.report import read_report, report
from auditor.report.summary import Summary, verdict

__all__ = ["Summary", "read_report", "report", "verdict"]
