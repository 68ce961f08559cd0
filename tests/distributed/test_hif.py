from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from auditor import Audit
from auditor.data import prepare
from auditor.distributed.hif import check_hif
from auditor.distributed.hif_files import Hif
from auditor.distributed.implicit import implicit_influence
from auditor.distributed.row_scores import read_row_scores
from auditor.distributed.workers import run_on_workers
from auditor.errors import InputError, StageError
from auditor.storage import RunFolder
from tests.distributed.builders import config
from tests.distributed.conftest import SMALL


@pytest.mark.ray
def test_two_ray_workers_leave_the_influence_that_one_process_finds(computed, caplog):
    with pytest.raises(StageError, match="train first"):
        run_on_workers(computed.untrained, RunFolder(computed.untrained.run), ["hif"])
    audit, run = computed.audit, computed.run
    found = Hif.read(run)
    assert set(found.columns) == {"hif_full", "ekfac"}
    alone = implicit_influence(audit, run, torch.device("cpu"))
    scores = read_row_scores(run)
    assert set(found.seconds) == {*found.columns, "ekfac_self"}
    for column in found.seconds:
        np.testing.assert_allclose(scores[column], alone.influence[column], rtol=1e-6, atol=1e-12)
    assert not [name for name in run.names("", hidden=True) if name.startswith(".")]

    # What is there is left alone, and a solve that was stopped early is never silent.
    before = (run.local / "hif/influence.parquet").stat().st_mtime_ns
    with caplog.at_level(logging.WARNING, logger="auditor"):
        assert Audit(audit).hif() == found
    assert (run.local / "hif/influence.parquet").stat().st_mtime_ns == before
    assert not found.columns["hif_full"].converged
    assert "hif_full: gmres left a relative residual of" in caplog.text

    assert Audit(audit).score() == 50
    table = run.read_table("scores").to_pandas()
    names = {name: row for row, name in enumerate(run.read_table("dataset/train")["sample_id"].to_pylist())}
    assert dict(zip(table["sample_id"], table["hif_full"], strict=True)) == {
        name: scores["hif_full"][row] for name, row in names.items()
    }


def test_what_cannot_be_computed_is_refused_in_a_sentence(tmp_path):
    audit = config(tmp_path, **SMALL | {"evaluation": {"statistics": "running"}})
    prepare(audit, RunFolder(tmp_path))
    with pytest.raises(InputError, match=r"evaluation\.statistics is running, which hif cannot"):
        check_hif(audit, RunFolder(tmp_path))
    other = config(tmp_path, **SMALL | {"score": {"methods": ["loss"]}, "report": {"rank_by": "loss"}})
    with pytest.raises(InputError, match=r"score\.methods names none of hif_full"):
        check_hif(other, RunFolder(tmp_path))
