"""A verification in words and as a table."""

from __future__ import annotations

from auditor.fidelity.agreement import Statistic
from auditor.fidelity.fidelity import Fidelity
from auditor.methods import AUTO


def fidelity_table(found: Fidelity) -> list[str]:
    """Lines of plain text: every method's agreement with the retrainings, with 95 % intervals."""
    shares = list(found.subsets)
    head = ["method", "LOO Pearson", "LOO Spearman", "slope", *(f"LDS {float(share):.3g}" for share in shares), "on"]
    rows = []
    for name, method in found.methods.items():
        label = name if method.column == name else f"{name} ({method.column})"
        cells = [method.loo_pearson, method.loo_spearman, method.slope, *(method.lds[share] for share in shares)]
        rows.append([label, *map(shown, cells), str(method.retrainings)])
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    ]


def shown(statistic: Statistic | None) -> str:
    """`0.98 (0.95 to 0.99)`, or a dash."""
    return "–" if statistic is None else f"{statistic.value:.3f} ({statistic.low:.2f} to {statistic.high:.2f})"


def sentences(found: Fidelity, method: str) -> list[str]:
    """What retrainings say about a method's predictions, for a person who will act on them."""
    column = found.chosen.get(method, method)
    judged = found.methods.get(AUTO if found.chosen.get(AUTO) == column else method) or found.methods.get(method)
    told = []
    if found.harmful is not None:
        effect = found.harmful
        change = "lowered" if effect.measured < 0 else "raised"
        told.append(
            f"Checked by training again without the {effect.samples:,} samples that {effect.column} calls most harmful: "
            f"predicted {effect.predicted:+.3g}, measured {effect.measured:+.3g} "
            f"(removal {change} the loss from {found.baseline_loss:.3g} to {found.baseline_loss + effect.measured:.3g})."
        )
    if judged is None:
        return told
    parts = []
    if judged.loo_pearson is not None:
        parts.append(
            f"for single samples, predicted and measured effects correlate {_range(judged.loo_pearson)}"
            + (f", measured ones being {judged.slope.value:.2g} times the predicted" if judged.slope else "")
        )
    for share, statistic in judged.lds.items():
        if statistic is not None:
            parts.append(f"for random {float(share):.3g} removals, ranks correlate {_range(statistic)}")
    if parts:
        told.append(f"Over {judged.retrainings} real retrainings, {'; '.join(parts)}.")
    return told


def _range(statistic: Statistic) -> str:
    return f"{statistic.value:.2f} (95 % interval {statistic.low:.2f} to {statistic.high:.2f})"
