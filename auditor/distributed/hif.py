"""SAM-HIF and its kin as a Ray Train job."""

from __future__ import annotations

from auditor.config import Config
from auditor.distributed.hif_files import Hif
from auditor.distributed.implicit import passes
from auditor.distributed.replay import check_replay
from auditor.distributed.worker import hif_worker
from auditor.distributed.workers import run_on_workers
from auditor.errors import InputError
from auditor.methods import HIF
from auditor.storage import RunFolder
from auditor.trajectory import TrajectoryReader


def hif_on_ray(config: Config, run: RunFolder) -> Hif:
    """Solve for the influence of every row by the implicit function theorem; an earlier result is left alone.

    Args:
        config: The audit; computed are those of `auditor.methods.HIF` that `score.methods` names.
        run: Its run folder, training complete.

    Returns:
        How well it went; the influence of every row is in hif/influence.parquet.

    Raises:
        InputError: See `check_hif`.
        StageError: Training has not ended, a series diverges, or a number is not finite.
    """
    check_hif(config, run)
    if (found := Hif.read(run)) is not None:
        return found
    TrajectoryReader(run)
    run_on_workers(config, run, hif_worker, "hif", passes(config), 0, "products")
    found = Hif.read(run)
    assert found is not None, "the first worker writes it before it returns"  # noqa: S101
    return found


def check_hif(config: Config, run: RunFolder) -> None:
    """Refuse what would go wrong.

    Raises:
        InputError: No such method is asked for, or the model has BatchNorm and is evaluated with running statistics,
            which are no function of θ.
    """
    if not set(HIF) & set(config.score.methods):
        raise InputError(f"score.methods names none of {', '.join(HIF)}")
    check_replay(config, run, "hif")
