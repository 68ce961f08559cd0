"""A verification in words and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from auditor.fidelity.agreement import Statistic
from auditor.fidelity.fidelity import Fidelity, MethodFidelity
from auditor.methods import AUTO, base


def fidelity_table(methods: Mapping[str, MethodFidelity]) -> list[str]:
    """Lines of plain text: agreement with the retrainings, with 95 % intervals.

    Args:
        methods: `Fidelity.methods`, or every column of `Fidelity.columns`.
    """
    shares = list(dict.fromkeys(share for method in methods.values() for share in method.lds))
    head = ["method", "LOO Pearson", "LOO Spearman", "slope", *(f"LDS {float(share):.0%}" for share in shares), "on"]
    rows = []
    for name, method in methods.items():
        label = name if method.column == name else f"{name} ({method.column})"
        cells = [method.loo_pearson, method.loo_spearman, method.slope, *(method.lds[share] for share in shares)]
        rows.append([label, *map(shown, cells), str(method.retrainings)])
    return aligned([head, *rows])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns under each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def shown(statistic: Statistic | None) -> str:
    """`0.98 (0.95 to 0.99)`, or a dash."""
    return "–" if statistic is None else f"{statistic.value:.3f} ({statistic.low:.2f} to {statistic.high:.2f})"


def sentences(found: Fidelity, method: str) -> list[str]:
    """What retrainings say about a method's predictions, for a person who will act on them.

    Args:
        found: The verification.
        method: The method that ranks the report.
    """
    told = []
    if found.harmful is not None:
        effect = found.harmful
        after = found.baseline_loss + effect.measured
        said = expected(found.baseline_loss + effect.predicted)
        told.append(
            f"Checked by training again without the {effect.samples:,} samples that {effect.column} calls most "
            f"harmful: the loss {'fell' if effect.measured < 0 else 'rose'} from {found.baseline_loss:.3g} to "
            f"{after:.3g}; {said}."
        )
    ranked_by_auto = AUTO in found.chosen and base(found.chosen[AUTO]) == method
    judged = found.methods.get(AUTO if ranked_by_auto else method)
    if judged is not None and (parts := list(_parts(judged))):
        told.append(f"How far to trust the scores, by {judged.retrainings} real retrainings: {'; '.join(parts)}.")
    return told


def expected(loss: float) -> str:
    """A predicted loss, which an approximation can put below zero."""
    return f"{loss:.3g} was predicted" if loss > 0 else "less than nothing was predicted, which cannot be"


def _parts(judged: MethodFidelity) -> Iterator[str]:
    if judged.loo_pearson is not None:
        text = f"leaving out single samples, predicted and measured effects correlate {_range(judged.loo_pearson)}"
        if judged.slope is not None:
            text += f", measured sizes being {judged.slope.value:.2f} times the predicted"
        yield text
    for share, statistic in judged.lds.items():
        if statistic is not None:
            yield f"leaving out random {float(share):.0%} of the samples, ranks correlate {_range(statistic)}"


def _range(statistic: Statistic) -> str:
    return f"{statistic.value:.2f} (95% interval {statistic.low:.2f} to {statistic.high:.2f})"
