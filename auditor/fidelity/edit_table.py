"""An edit as a table."""

from __future__ import annotations

from auditor.fidelity.edit import Edit
from auditor.fidelity.edit_files import RECORDED, RETRAIN
from auditor.fidelity.words import aligned

_WEIGHTS = {RECORDED: "trained with them", RETRAIN: "trained without them"}


def edit_table(found: Edit) -> list[str]:
    """Lines of plain text: what the recorded, the retrained and the edited weights do."""
    head = ["weights", "validation loss", "accuracy", "test accuracy", "removed: loss", "membership"]
    head += ["distance", "margin difference", "seconds"]
    rows = []
    for name, measured in found.methods.items():
        cells = [
            f"{measured.validation_loss:.4f}",
            f"{measured.validation_accuracy:.2%}",
            f"{measured.test_accuracy:.2%}",
            f"{measured.removed_loss:.3f}",
            f"{measured.membership:.3f}",
            *("–" if value is None else f"{value:.3f}" for value in (measured.distance, measured.margin_difference)),
            f"{measured.seconds:.1f}",
        ]
        rows.append([_WEIGHTS.get(name, name), *cells])
    return aligned([head, *rows])
