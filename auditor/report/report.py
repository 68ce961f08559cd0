"""The report stage: ranked table, figures, summary and HTML of a scored run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import pyarrow as pa

from auditor.config import Config
from auditor.fidelity.verification import read_effects
from auditor.report.changes import Changes
from auditor.report.classes import by_class
from auditor.report.curves import training_curves
from auditor.report.detection import detect
from auditor.report.figures import draw_figures
from auditor.report.gallery import gallery
from auditor.report.html import render
from auditor.report.ranking import rank_samples
from auditor.report.spreadsheet import to_csv
from auditor.report.summary import Summary, summarise
from auditor.storage import RunFolder

_ASIDE = ".report"
_SUMMARY = "report/summary.json"


def report(config: Config, run: RunFolder, changes_since: Callable[[pa.Table], Changes] | None = None) -> Summary:
    """Rank the scored samples of a run and write `report/`: whole or not at all, and over an earlier one.

    Args:
        config: The audit.
        run: Its folder, with dataset, trajectory, evaluation.json and scores.
        changes_since: Compares the ranked table with the audit before this one, where there is one.

    Returns:
        What was found.

    Raises:
        StageError: Scores are missing, doubled, not finite or of other data.
    """
    started = time.perf_counter()
    ranking = rank_samples(config, run)
    detection = detect(ranking)
    pictures = draw_figures(ranking, detection, training_curves(run), read_effects(run))
    samples = gallery(ranking, run, config.report, config.train.optimizer.weight_decay)
    summary = summarise(ranking, detection, run)
    if changes_since is not None:
        summary = dataclasses.replace(summary, changes=changes_since(ranking.table))

    run.remove(_ASIDE)
    run.write_table(f"{_ASIDE}/ranked.parquet", ranking.table)
    run.write_bytes(f"{_ASIDE}/ranked.csv", to_csv(ranking.table))
    for picture in pictures:
        run.write_bytes(f"{_ASIDE}/figures/{picture.name}.png", picture.png)
    summary = dataclasses.replace(summary, seconds={**summary.seconds, "report": time.perf_counter() - started})
    page = render(config, run, summary, samples, by_class(ranking), pictures)
    run.write_bytes(f"{_ASIDE}/report.html", page.encode())
    run.write_json(f"{_ASIDE}/summary.json", summary.to_json())
    run.replace(_ASIDE, "report")
    return summary


def read_report(config: Config, run: RunFolder) -> Summary:
    """What an earlier `report` found; nothing is written.

    Raises:
        StageError: Scores are missing, doubled, not finite or of other data.
    """
    ranking = rank_samples(config, run)
    summary = summarise(ranking, detect(ranking), run)
    kept = run.read_json(_SUMMARY).get("comparison") if run.exists(_SUMMARY) else None
    return dataclasses.replace(summary, changes=Changes.from_json(kept)) if kept else summary
