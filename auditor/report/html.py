"""The report as one HTML file that asks no other host for anything."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING

from auditor.config import Config
from auditor.fidelity.words import shown
from auditor.report.classes import Classes
from auditor.report.figures import Picture
from auditor.report.gallery import Gallery
from auditor.report.numbers import number, percent
from auditor.report.payload import effect, payload
from auditor.report.provenance import run_name, settings, versions
from auditor.report.summary import Summary, caveat, verdict
from auditor.storage import RunFolder

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

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

STATIC_CARDS = 24
"""Samples that stand in the page itself, for readers without JavaScript."""


@dataclass(frozen=True)
class _Inline:
    """Style or script that the page's own policy permits by its hash, and nothing else."""

    text: Markup
    hash: str


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
    environment = _environment()
    described = run.read_json("dataset.json")
    quarantine = described.get("quarantine") or {"counts": {}, "rows": []}
    plain = settings(config)
    return environment.get_template("report.html.j2").render(
        name=run_name(config),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        style=_inline("report.css"),
        script=_inline("report.js"),
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


def _environment() -> Environment:
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
        "effect": effect,
    }
    return environment


def _inline(name: str) -> _Inline:
    from markupsafe import Markup

    source = (resources.files("auditor.report") / "templates" / name).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return _Inline(Markup(source), f"sha256-{digest}")  # noqa: S704 - a file of this package, not of the data
