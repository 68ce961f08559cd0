"""Items of a review queue: which samples a person is asked about, and what is shown of each."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from auditor.methods import in_order
from auditor.report.priority import PRIORITY
from auditor.report.tracking_store import clip
from auditor.review.evidence import Evidence
from auditor.review.verdicts import DECIDED, Verdict

PREVIEW_LENGTH = 1000
"""Most characters of each of the two texts that MLflow's review pane shows."""
_ID_LENGTH, _LABEL_LENGTH = 100, 60
_FEATURES = 12

SAMPLE_TAG = "auditor.sample_id"
RUN_TAG = "auditor.run_id"


@dataclass(frozen=True)
class Item:
    """One flagged sample as it goes into the queue."""

    item_id: str
    """MLflow's name of the trace that stands for it."""
    sample_id: str
    question: str
    """Markdown: sample, labels and picture."""
    evidence: str
    """Markdown: a table of numbers."""
    facts: dict[str, Any]
    """The same for programs: what an audit says about the sample."""
    tags: dict[str, str]


def item_id(run_id: str, sample_id: str) -> str:
    """The item of a sample in the queue of an MLflow run: always the same, so that none is ever made twice."""
    return f"tr-{hashlib.sha256(f'{run_id}/{sample_id}'.encode()).hexdigest()[:32]}"


def settled(now: Evidence, verdict: Verdict | None, flagged: int) -> bool:
    """Whether an earlier verdict still answers for a sample.

    Args:
        now: What is known of the sample now.
        verdict: The one that counts, given about an earlier audit; None without one.
        flagged: How many samples are flagged now.

    Returns:
        True where it was keep, relabel or remove, and what was known then has not changed since, but for the label
        that the verdict itself has changed, and for a model that is of one mind with the label by now.
    """
    if verdict is None or verdict.verdict not in DECIDED or verdict.evidence is None:
        return False
    then = verdict.evidence
    if verdict.carried_out(now.label):
        then = replace(then, label=now.label)
    if now.suggested_label == now.label:
        then = replace(then, suggested_label=now.suggested_label)
    return not then.differs(now, flagged)


def chosen(
    flagged: Sequence[Mapping[str, Any]], earlier: Mapping[str, Verdict], count: int
) -> tuple[list[Mapping[str, Any]], int]:
    """The samples to ask about.

    Args:
        flagged: Rows of the ranked table, in the order in which they should be looked at.
        earlier: The verdict that counts for a sample, from earlier audits alone.
        count: Most samples.

    Returns:
        The first rows that no earlier verdict answers for, and how many before the last of them one answers for.
    """
    left: list[Mapping[str, Any]] = []
    passed = 0
    for line in flagged:
        if len(left) == count:
            break
        now = Evidence(line["label"], line["suggested_label"], line["rank"])
        if settled(now, earlier.get(line["sample_id"]), len(flagged)):
            passed += 1
        else:
            left.append(line)
    return left, passed


def make_item(line: Mapping[str, Any], run_id: str, rows: int, picture: str | None) -> Item:
    """Put an item together.

    Args:
        line: The sample's row of the ranked table.
        run_id: Of the audit in MLflow.
        rows: Training samples in all.
        picture: Address of its picture or other Markdown, see `picture_room`; None where there is none.
    """
    scores = {name: line[name] for name in in_order(line)}
    numbers = [("priority", f"{line[PRIORITY]:.3g}"), ("harm", f"{line['harm']:.3g}")]
    numbers.append(("rank by harm", f"{line['rank']:,} of {rows:,}"))
    numbers += [(name, f"{value:.3g}") for name, value in scores.items()]
    question = _words(line)
    if picture is not None:
        question += f"\n\n{picture}"
    facts = {name: line[name] for name in ("sample_id", "label", "suggested_label", "suggested_probability")}
    facts |= {PRIORITY: line[PRIORITY], "harm": line["harm"], "rank": line["rank"], **scores}
    return Item(
        item_id=item_id(run_id, line["sample_id"]),
        sample_id=line["sample_id"],
        question=question,
        evidence=_table(numbers, PREVIEW_LENGTH),
        facts=facts,
        tags={SAMPLE_TAG: line["sample_id"], RUN_TAG: run_id},
    )


def picture_room(line: Mapping[str, Any]) -> int:
    """How many characters the address of a sample's picture may have."""
    return PREVIEW_LENGTH - len(_words(line)) - len("\n\n![]()")


def shown_features(values: Sequence[float]) -> str:
    """The first features of a sample without an image."""
    first = ", ".join(f"{value:.3g}" for value in values[:_FEATURES])
    return f"{len(values)} features: {first}{', …' if len(values) > _FEATURES else ''}"


def code(text: str, length: int) -> str:
    """Text on one line, cut to a length, as Markdown that shows exactly it and interprets nothing in it."""
    plain = clip(" ".join(text.split()), length) or " "
    fence = "`" * (max((len(run) for run in re.findall("`+", plain)), default=0) + 1)
    space = " " if "`" in (plain[0], plain[-1]) else ""
    return f"{fence}{space}{plain}{space}{fence}"


def _words(line: Mapping[str, Any]) -> str:
    label, suggested = (code(line[name], _LABEL_LENGTH) for name in ("label", "suggested_label"))
    sure = f"{line['suggested_probability']:.0%}"
    return f"{code(line['sample_id'], _ID_LENGTH)}: the label is {label}, the model says {suggested} ({sure})"


def _table(numbers: Sequence[tuple[str, str]], length: int) -> str:
    text = "| evidence | |\n| :-- | --: |"
    for name, value in numbers:
        line = f"\n| {name} | {value} |"
        if len(text) + len(line) > length:
            break
        text += line
    return text
