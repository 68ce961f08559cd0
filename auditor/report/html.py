"""The report as one HTML file that asks no other host for anything."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import UTC, datetime

from auditor.config import Config
from auditor.report.classes import Classes
from auditor.report.figures import Picture
from auditor.report.gallery import Gallery
from auditor.report.pages import inline, templates
from auditor.report.payload import payload
from auditor.report.provenance import run_name, settings, versions
from auditor.report.summary import Summary, caveat, verdict
from auditor.storage import RunFolder

_HEADLINES = (
    "data.source.kind",
    "model.name",
    "train.epochs",
    "train.batch_size",
    "train.micro_batch_size",
    "train.optimizer.name",
    "train.optimizer.learning_rate",
    "train.perturbation.name",
    "train.perturbation.rho",
    "evaluation.statistics",
    "report.rank_by",
    "seed",
)
"""Settings shown without unfolding the rest."""

_QUARANTINE_LINES = 50

STATIC_CARDS = 24
"""Samples that stand in the page itself, for readers without JavaScript."""


def render(
    config: Config, run: RunFolder, summary: Summary, gallery: Gallery, classes: Classes, pictures: Sequence[Picture]
) -> str:
    """Render report.html; everything from the data is escaped, and no script but the page's own may run.

    Args:
        config: The audit.
        run: Its folder, with dataset.json.
        summary: The findings.
        gallery: The samples.
        classes: The findings by class.
        pictures: The figures.
    """
    environment = templates()
    described = run.read_json("dataset.json")
    quarantine = described.get("quarantine") or {"counts": {}, "rows": []}
    plain = settings(config)
    return environment.get_template("report.html.j2").render(
        name=run_name(config),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        style=inline("report.css"),
        script=inline("report.js"),
        summary=summary,
        verdict=verdict(summary),
        caveat=caveat(summary),
        fidelity=summary.fidelity,
        cards=gallery.cards,
        static=gallery.cards[:STATIC_CARDS],
        data=payload(gallery),
        classes=classes,
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
