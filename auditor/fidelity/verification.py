"""Which retrainings an audit's verification needs, and what the ones that are done say."""

from __future__ import annotations

import logging
import math

import numpy as np

from auditor.config import Config
from auditor.errors import StageError
from auditor.fidelity.fidelity import Fidelity, judge
from auditor.fidelity.predictions import foremost, predicted_effects
from auditor.fidelity.removals import Removal, plan_removals
from auditor.storage import RunFolder
from auditor.trajectory import TrajectoryReader

log = logging.getLogger("auditor")

RETRAININGS = "verify/retrainings"


def planned(config: Config, run: RunFolder) -> list[Removal]:
    """The retrainings that the configuration asks for, the recorded training itself first.

    Args:
        config: The audit.
        run: Its run folder, scored.

    Raises:
        StageError: Training has not ended, or scores are missing.
    """
    predicted = predicted_effects(run)
    first = foremost(predicted)
    return plan_removals(
        None if first is None else predicted[first],
        TrajectoryReader(run).manifest.rows,
        config.verify.leave_one_out,
        config.verify.subsets,
        config.verify.drop_rates,
        config.report.flagged,
        config.seed,
    )


def result_file(removal: Removal) -> str:
    """Where a retraining leaves its result: named by what was left out, so that it is never done twice."""
    return f"{RETRAININGS}/{removal.key}.json"


def verified(run: RunFolder, removals: list[Removal]) -> Fidelity:
    """Judge every score column by retrainings that are done; writes verify/fidelity.json.

    Args:
        run: The run folder.
        removals: As `planned` gave them, all of them retrained.

    Raises:
        StageError: The recorded training, run again, has no finite loss.
    """
    losses = [run.read_json(result_file(removal))["loss"] for removal in removals]
    if losses[0] is None:
        raise StageError("verify: the recorded training, run again, ends without a finite loss")
    sound = [index for index, loss in enumerate(losses) if loss is not None]
    if lost := len(losses) - len(sound):
        log.warning("verify: %d of %d retrainings ended without a finite loss and are left out", lost, len(losses))
    predicted = predicted_effects(run)
    found = judge(
        predicted,
        [removals[index] for index in sound],
        np.array([losses[index] for index in sound]),
        float(run.read_json("evaluation.json")["validation_loss"]),
        foremost(predicted),
    )
    if not math.isclose(found.recorded_loss, found.baseline_loss, rel_tol=1e-3):
        log.warning(
            "verify: the same training run again ends at a loss of %.4g instead of %.4g: rounding alone moves it",
            found.baseline_loss,
            found.recorded_loss,
        )
    found.write(run)
    return found
