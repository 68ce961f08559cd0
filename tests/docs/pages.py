"""The pages as a reader meets them: text, code blocks, commands, tables."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *(path for folder in ("docs", "docs/operations") for path in sorted((ROOT / folder).glob("*.md"))),
]


def blocks(page: Path, language: str) -> list[str]:
    """Fenced code of one language."""
    return [textwrap.dedent(code) for code in re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.S | re.M)]


def commands(page: Path) -> list[str]:
    """Every `auditor …` that a reader may type: shown lines and inline code, continued lines joined."""
    text = page.read_text().replace("\\\n", " ")
    shown = re.findall(r"^ +(?:\$ )?(?:\.venv/bin/)?(auditor .*)$", text, re.M)
    return [*shown, *re.findall(r"`(auditor [^`\n]*)`", text)]


def headings(page: Path) -> set[str]:
    """Anchors of a page's headings."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def tables(page: Path) -> dict[str, dict[str, list[str]]]:
    """By heading, the first table under it: cells of each row by what stands in its first column."""
    found = {}
    for part in re.split(r"^## ", page.read_text(), flags=re.M)[1:]:
        heading, _, text = part.partition("\n")
        rows = re.findall(r"^\| (`.*) \|$", text, re.M)
        found[heading.strip("`")] = {cells[0].strip("`"): cells[1:] for cells in (row.split(" | ") for row in rows)}
    return found
