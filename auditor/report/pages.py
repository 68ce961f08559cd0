"""What all pages share: templates that escape everything, and style and script that a page's own policy permits."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from auditor.fidelity.words import shown
from auditor.report.numbers import number, percent
from auditor.report.payload import effect

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


@dataclass(frozen=True)
class Inline:
    """Style or script that a page's policy permits by its hash, and nothing else."""

    text: Markup
    hash: str


def inline(name: str) -> Inline:
    """A style sheet or script of the package.

    Args:
        name: Its file beside the templates.
    """
    from markupsafe import Markup

    source = (resources.files("auditor.report") / "templates" / name).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return Inline(Markup(source), f"sha256-{digest}")  # noqa: S704 - a file of this package, not of the data


def templates() -> Environment:
    """The pages' templates; whatever they are given is escaped, and what they are not given is an error."""
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
