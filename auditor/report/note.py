"""The note on an MLflow run's page: what was found and what to open first."""

from __future__ import annotations

import re
from dataclasses import replace

from auditor.methods import METHODS, base
from auditor.report.summary import Summary, caveat, verdict
from auditor.report.tracking_store import clip

_ID_LENGTH, _LABEL_LENGTH, _QUERY_LENGTH = 48, 24, 100
"""Longest texts in the table, so that even fully escaped it stays within the 8,000 characters of a tag."""


def note(summary: Summary, report_page: str, model_uri: str | None) -> str:
    """Markdown for MLflow's overview; text from the data is shown, never interpreted.

    Args:
        summary: The findings.
        report_page: Address of report.html in MLflow's interface.
        model_uri: The logged model, if it can be loaded.
    """
    # Its name may come from the data.
    first, *others = verdict(replace(summary, query=escape(summary.query, _QUERY_LENGTH)))
    influence = METHODS[base(summary.rank_by)].predicts
    lines = [
        f"**{first}** Open [report.html]({report_page}) first: it shows the samples. All of them, the most harmful "
        "first, are in ranked.csv and ranked.parquet under Artifacts.",
        "",
        " ".join(others),
        "",
        *([f"> {warning}", ""] if (warning := caveat(summary)) else []),
        f"| rank | sample | given | suggested | {'harm' if influence else 'suspicion'} |",
        "| ---: | :--- | :--- | :--- | ---: |",
    ]
    for sample in summary.top:
        given, suggested = (escape(text, _LABEL_LENGTH) for text in (sample.label, sample.suggested_label))
        suggested += f" ({sample.suggested_probability:.0%})"
        sample_id = escape(sample.sample_id, _ID_LENGTH)
        lines.append(f"| {sample.rank} | {sample_id} | {given} | {suggested} | {sample.harm:.3g} |")
    if model_uri is not None:
        lines += ["", f'The audited model: `mlflow.pytorch.load_model("{model_uri}")`']
    return "\n".join(lines)


def escape(text: str, length: int) -> str:
    """Text on one line, cut to a length, as Markdown that shows exactly it."""
    plain = clip(" ".join(text.split()), length)
    # Character references of all ASCII punctuation: neither Markdown nor HTML sees anything in them.
    return re.sub(r"[!-/:-@\[-`{-~]", lambda match: f"&#{ord(match[0])};", plain)
