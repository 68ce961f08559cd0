"""What changed since an earlier audit, in numbers and one sentence; `auditor.review.comparison` finds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SHOWN = ("keep", "relabel", "remove")


@dataclass(frozen=True)
class Changes:
    """Two audits compared, by sample_id."""

    predecessor: str
    """Run folder of the earlier audit."""
    common: int
    """Training samples that are in both."""
    new: int
    """Flagged now, not before, and never decided on."""
    persistent: int
    """Flagged now and before, and not decided on."""
    reflagged: int
    """Flagged now although they were decided on: what is known of them has changed since."""
    resolved: int
    """Flagged before, and now gone from the table or no longer flagged."""
    settled: dict[str, int]
    """Decisions that stand, by verdict: keep, relabel, remove; re-flagged samples are not among them."""
    harm_spearman: float | None
    """Rank correlation of harm over the common samples; None where it is undefined."""
    median_rank_move: float | None
    """Median distance between a common sample's two ranks among the common samples, as a share of those."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Changes:
        """What `to_json` gave."""
        return cls(**{name: value[name] for name in cls.__dataclass_fields__})

    def to_json(self) -> dict[str, Any]:
        """The `comparison` of `report/summary.json`."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @property
    def sentence(self) -> str:
        """The whole in words."""
        settled = ", ".join(f"{self.settled[word]} {word}" for word in _SHOWN if self.settled[word])
        text = (
            f"Since the audit in {self.predecessor}: {self.new:,} flagged samples are new, {self.persistent:,} were "
            f"flagged before, {self.reflagged:,} are flagged again after a decision, and {self.resolved:,} are "
            f"resolved; {sum(self.settled.values()):,} are settled by a verdict{f' ({settled})' if settled else ''}."
        )
        if self.harm_spearman is None:
            return text
        return f"{text} Harm of the {self.common:,} common samples correlates {self.harm_spearman:.2f} by rank."
