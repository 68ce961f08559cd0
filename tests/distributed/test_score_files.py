from __future__ import annotations

import pyarrow as pa

from auditor.distributed.score_files import ScoreFiles
from auditor.storage import RunFolder


def test_files_with_other_columns_and_files_that_repeat_a_sample_are_removed(tmp_path):
    run, columns = RunFolder(str(tmp_path)), ["sample_id", "gif"]
    run.write_table(".scores/a.parquet", pa.table({"sample_id": ["1", "2"], "gif": [0.0, 1.0]}))
    run.write_table(".scores/b.parquet", pa.table({"sample_id": ["3"], "loss": [0.0]}))
    run.write_table(".scores/c.parquet", pa.table({"sample_id": ["2", "4"], "gif": [0.0, 1.0]}))
    run.write_bytes(".scores/d.parquet", b"PAR1")
    run.write_bytes(".scores/e.parquet", b"")
    files = ScoreFiles(run, ".scores")
    assert files.keep(columns) == {"1", "2"}
    assert run.names(".scores", hidden=True) == ["a.parquet"]
    assert files.rows() == 2
