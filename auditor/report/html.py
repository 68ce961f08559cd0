"""The report as one HTML file that asks no other host for anything."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import UTC, datetime

from auditor.config import Config
from auditor.fidelity.words import shown
from auditor.report.figures import Picture
from auditor.report.gallery import Card
from auditor.report.provenance import run_name, settings, versions
from auditor.report.summary import Summary, caveat, verdict
from auditor.storage import RunFolder

_HEADLINES = (
    "data.source.kind",
    "model.name",
    "train.epochs",
    "train.batch_size",
    "train.micro_batch_size",
    "train.optimizer.learning_rate",
    "train.perturbation.name",
    "train.perturbation.rho",
    "evaluation.statistics",
    "report.rank_by",
    "seed",
)
"""Settings shown without unfolding the rest."""

_QUARANTINE_LINES = 50


def render(config: Config, run: RunFolder, summary: Summary, cards: Sequence[Card], pictures: Sequence[Picture]) -> str:
    """Render report.html; everything from the data is escaped, and no script runs.

    Args:
        config: The audit.
        run: Its folder, with dataset.json.
        summary: The findings.
        cards: The gallery, most harmful first.
        pictures: The figures.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("auditor.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "count": lambda value: f"{value:,}",
        "percent": percent,
        "statistic": shown,
    }
    described = run.read_json("dataset.json")
    quarantine = described.get("quarantine") or {"counts": {}, "rows": []}
    plain = settings(config)
    return environment.get_template("report.html.j2").render(
        name=run_name(config),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        summary=summary,
        verdict=verdict(summary),
        caveat=caveat(summary),
        fidelity=summary.fidelity,
        cards=cards,
        pictures=[(picture, base64.b64encode(picture.png).decode()) for picture in pictures],
        splits=described.get("splits", {}),
        headlines={key: plain[key] for key in _HEADLINES},
        settings=plain,
        versions=versions(run),
        quarantine_counts=quarantine["counts"],
        quarantine_rows=quarantine["rows"][:_QUARANTINE_LINES],
        quarantine_hidden=max(len(quarantine["rows"]) - _QUARANTINE_LINES, 0),
        warnings=described.get("warnings", []),
    )


def number(value: float | None) -> str:
    """Three significant digits with a real minus sign; a dash for nothing."""
    return "–" if value is None else f"{value:.3g}".replace("-", "−")


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent; a dash for nothing."""
    return "–" if value is None else f"{value:.{digits}%}"
