from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from auditor.report.ranking import rank_samples
from docs.examples.paper.fused import Scored, best
from docs.examples.paper.harmful import removals
from tests.report.builders import Audit


@pytest.fixture
def written(tmp_path):
    audit = Audit(rows=50)
    return audit, *audit.write(tmp_path / "run")


def test_each_retraining_leaves_out_the_first_of_its_order_or_exactly_the_wrong_labels(written):
    audit, config, run = written
    found = removals(config, rank_samples(config, run), ["loss", "gif"])
    assert list(found) == ["as trained", "loss", "gif", "without the wrong labels"]
    assert found["as trained"].rows == ()
    assert found["loss"].rows == tuple(sorted(np.argsort(-audit.scores["loss"])[:10].tolist()))
    assert found["gif"].rows == tuple(sorted(np.argsort(audit.scores["gif"])[:10].tolist()))
    assert found["without the wrong labels"].rows == tuple(np.flatnonzero(audit.wrong).tolist())


def test_detectors_that_err_on_different_rows_are_chosen_together():
    wrong = np.arange(60) < 6
    good = np.linspace(0, 0.5, 60)
    left, right, poor = (np.where(wrong, 0.9, good) for _ in range(3))
    left[40:45], right[20:25] = 0.95, 0.95
    poor[:6] = 0.0
    run = Scored(pa.chunked_array([[f"{row:02d}" for row in range(60)]]), wrong, {"a": left, "b": right, "c": poor})
    assert best([run], [("a",), ("b",), ("c",), ("a", "b"), ("a", "c")]) == ("a", "b")
    assert run.by(("a", "b")).average_precision == 1.0
    assert run.by(("a",)).average_precision < 1.0


def test_the_doubt_of_the_report_stands_beside_the_detectors(written):
    _, _, run = written
    found = Scored.of(str(run))
    assert set(found.percentiles) == {"loss", "margin", "aum", "doubt"}
