from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.distributed.every_step import gif_at_every_step
from auditor.distributed.gif_step import GIF_STEP_FILE
from auditor.distributed.row_scores import read_row_scores
from auditor.distributed.workers import run_on_workers
from auditor.errors import StageError
from auditor.storage import RunFolder


@pytest.mark.ray
def test_two_ray_workers_leave_the_influence_that_one_process_finds(computed):
    with pytest.raises(StageError, match="train first"):
        run_on_workers(computed.untrained, RunFolder(computed.untrained.run), ["gif_step"])
    audit, run = computed.audit, computed.run
    np.testing.assert_allclose(
        read_row_scores(run)["gif_step"], gif_at_every_step(audit, run, torch.device("cpu")), rtol=1e-6, atol=1e-12
    )
    assert not [name for name in run.names("", hidden=True) if name.startswith(".")]

    # What is there is left alone.
    before = (run.local / GIF_STEP_FILE).stat().st_mtime_ns
    run_on_workers(audit, run, ["gif_step"])
    assert (run.local / GIF_STEP_FILE).stat().st_mtime_ns == before
