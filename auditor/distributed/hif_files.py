"""What the implicit methods leave in the run folder: the influence of every row, and how well it was solved for."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from auditor.distributed.implicit import Implicit, Solved
from auditor.distributed.row_scores import write_row_scores
from auditor.storage import RunFolder

HIF_FILE = "hif/hif.json"


@dataclass(frozen=True)
class Hif:
    """`hif/hif.json`: how well the solves went."""

    rows: int
    """Training rows in products with the matrix."""
    columns: dict[str, Solved]
    """By score column."""
    seconds: dict[str, float]
    """By method."""

    @classmethod
    def read(cls, run: RunFolder) -> Hif:
        """What finished solves wrote."""
        raw = run.read_json(HIF_FILE)
        return cls(raw["rows"], {name: Solved(**column) for name, column in raw["columns"].items()}, raw["seconds"])

    def warnings(self) -> list[str]:
        """A sentence for every column whose solve did not reach the tolerance."""
        return [
            f"{column}: {solved.solver} left a relative residual of {solved.residual:.2g} at damping "
            f"{solved.damping:g} after {solved.iterations} products: not converged"
            for column, solved in self.columns.items()
            if not solved.converged
        ]


def write_hif(run: RunFolder, found: Implicit) -> None:
    """Keep what was found; hif.json last, since it declares the rest complete."""
    write_row_scores(run, "hif", found.influence)
    seconds = {method: round(value, 3) for method, value in found.seconds.items()}
    run.write_json(HIF_FILE, asdict(Hif(found.rows, found.columns, seconds)))
