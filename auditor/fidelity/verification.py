"""Which retrainings an audit's verification needs, and what the ones that are done say."""

from __future__ import annotations

import logging
import math

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from auditor.config import Config
from auditor.errors import StageError
from auditor.fidelity.fidelity import Fidelity, judge
from auditor.fidelity.predictions import foremost, predicted_effects
from auditor.fidelity.removals import Removal, plan_removals
from auditor.methods import AUTO
from auditor.storage import RunFolder

log = logging.getLogger("auditor")

RETRAININGS = "verify/retrainings"
LOSSES = "verify/losses"
EFFECTS_FILE = "verify/effects.parquet"


def planned(config: Config, run: RunFolder) -> list[Removal]:
    """The retrainings that the configuration asks for, the recorded training itself first.

    Args:
        config: The audit.
        run: Its run folder, scored.

    Raises:
        StageError: A training row has no score.
    """
    predicted = predicted_effects(run)
    first = foremost(predicted)
    return plan_removals(
        None if first is None else predicted[first],
        int(run.read_json("dataset.json")["splits"]["train"]["rows"]),
        config.verify.leave_one_out,
        config.verify.subsets,
        config.verify.drop_rates,
        config.report.flagged,
        config.seed,
    )


def trusted_column(run: RunFolder, predicted: dict[str, NDArray[np.float64]]) -> str | None:
    """The column to trust most: the one that agrees best with the run's retrainings, or, without any, the foremost.

    Args:
        run: The run folder.
        predicted: As `predicted_effects` gives it.

    Returns:
        None when no column predicts an effect.
    """
    fidelity = Fidelity.read(run)
    column = fidelity.chosen.get(AUTO) if fidelity is not None else None
    return column if column in predicted else foremost(predicted)


def result_file(removal: Removal) -> str:
    """Where a retraining leaves its result: named by what was left out, so that it is never done twice."""
    return f"{RETRAININGS}/{removal.key}.json"


def losses_file(removal: Removal) -> str:
    """Where a retraining leaves the loss of every validation row, in the order of dataset/validation."""
    return f"{LOSSES}/{removal.key}.parquet"


def is_done(run: RunFolder, removal: Removal) -> bool:
    """Whether a retraining has left all that it leaves."""
    return run.exists(result_file(removal)) and run.exists(losses_file(removal))


def verified(run: RunFolder, removals: list[Removal]) -> Fidelity:
    """Judge every score column by retrainings that are done; writes verify/fidelity.json and verify/effects.parquet.

    Args:
        run: The run folder.
        removals: As `planned` gave them, all of them retrained.

    Raises:
        StageError: The recorded training, run again, has no finite loss.
    """
    losses = [run.read_json(result_file(removal))["loss"] for removal in removals]
    if losses[0] is None:
        raise StageError("verify: the recorded training, run again, ends without a finite loss")
    predicted = predicted_effects(run)
    sound = [index for index, loss in enumerate(losses) if loss is not None]
    if lost := len(losses) - len(sound):
        log.warning("verify: %d of %d retrainings ended without a finite loss and are left out", lost, len(losses))
    removals, losses = [removals[index] for index in sound], [losses[index] for index in sound]
    found = judge(
        predicted,
        removals,
        np.array(losses),
        float(run.read_json("evaluation.json")["query_loss"]),
        foremost(predicted),
    )
    if not math.isclose(found.recorded_loss, found.baseline_loss, rel_tol=1e-3):
        log.warning(
            "verify: the same training run again ends at a loss of %.4g instead of %.4g: rounding alone moves it",
            found.baseline_loss,
            found.recorded_loss,
        )
    run.write_table(EFFECTS_FILE, _effects(predicted, removals, losses))
    found.write(run)
    return found


def read_effects(run: RunFolder) -> pa.Table | None:
    """Predicted and measured effects, one row a retraining; None when nothing was verified."""
    return run.read_table(EFFECTS_FILE) if run.exists(EFFECTS_FILE) else None


def _effects(predicted: dict[str, NDArray[np.float64]], removals: list[Removal], losses: list[float]) -> pa.Table:
    """One row a retraining: what was left out, which half it is in, measured and predicted effects on the loss."""
    left_out = [list(removal.rows) for removal in removals]
    return pa.table(
        {
            "kind": [removal.kind for removal in removals],
            "share": [removal.share for removal in removals],
            "rows": pa.array(left_out, pa.list_(pa.int32())),
            "chooses": [removal.chooses for removal in removals],
            "measured": np.array(losses) - losses[0],
            **{column: [float(values[rows].sum()) for rows in left_out] for column, values in predicted.items()},
        }
    )
