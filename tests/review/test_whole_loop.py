"""The whole loop with two real trainings: audit, decide on ten flagged samples, review, export, audit again."""

from __future__ import annotations

from collections import Counter

import pyarrow.parquet as pq
import pytest
import yaml

from auditor.config import load_config
from auditor.review.evidence import Ranked
from auditor.review.verdicts import DECIDED, WORDS, current, read_verdicts
from auditor.storage import RunFolder
from tests.distributed.builders import auditor
from tests.review.browser import CHROMIUM
from tests.review.builders import in_queue
from tests.review.test_loop import by_clicks, by_client

pytestmark = pytest.mark.ray

AUDIT = {
    "run": "runs/first",
    "data": {
        "source": {"kind": "digits"},
        "limit": {"train": 300, "validation": 100, "test": 100},
        "label_noise": 0.1,
    },
    "model": {"name": "small_cnn", "args": {"widths": [8, 16]}},
    "train": {"epochs": 30, "batch_size": 50, "micro_batch_size": 50, "checkpoints": 4},
    "evaluation": {"statistics_rows": 128},
    "score": {"methods": ["replay", "loss", "margin"]},
    "verify": {"during_run": False},
    "report": {"flagged": 0.1},
    "review": {"queue": 10},
}


def command(cwd, *arguments, **environment):
    done = auditor(cwd, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done


def test_ten_decisions_made_in_mlflow_are_settled_in_the_report_of_the_next_training(server, running_cluster, tmp_path):
    mlflow = {"tracking_uri": server.address, "experiment": f"loop {tmp_path}"}
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump({**AUDIT, "mlflow": mlflow}))
    command(tmp_path, "run", "audit.yaml", **running_cluster)
    run = RunFolder(tmp_path / "runs/first")
    config = load_config(tmp_path / "audit.yaml", run=run.uri)
    lines = Ranked.read(run).to_look_at()[:10]
    decisions = [decision(line, place) for place, line in enumerate(lines)]
    words = Counter(word for word, _ in decisions)
    (by_client if CHROMIUM is None else by_clicks)(config, run, lines, decisions, tmp_path)

    counts = ", ".join(f"{words[word]} {word}" for word in WORDS)
    assert f"Verdicts: {counts}; 10 of them new." in command(tmp_path, "review", "audit.yaml").stdout
    command(tmp_path, "export", "audit.yaml", "--to", "cleaned")
    assert pq.read_metadata(tmp_path / "cleaned/train.parquet").num_rows == 300 - words["remove"]

    command(tmp_path, "run", "cleaned/audit.yaml", **running_cluster)
    following = RunFolder(tmp_path / "runs/first-next")
    found = following.read_json("report/summary.json")["comparison"]
    assert found["predecessor"] == run.uri
    assert found["settled"] == {word: words[word] for word in DECIDED}
    assert found["reflagged"] == 0
    assert found["common"] == 300 - words["remove"]
    given = current(read_verdicts(following))
    assert [(given[line["sample_id"]].verdict, given[line["sample_id"]].new_label) for line in lines] == decisions
    # Nobody is asked again, and what was decided is no problem of the second audit.
    asked = {
        trace.info.tags["auditor.sample_id"]
        for trace in in_queue(load_config(tmp_path / "cleaned/audit.yaml"), following)
    }
    assert asked.isdisjoint(line["sample_id"] for line in lines)
    said = command(tmp_path, "review", "cleaned/audit.yaml").stdout
    assert f"Verdicts: {words['keep']} keep, 0 relabel, 0 remove, 0 unsure; none new." in said
    assert f"{words['remove'] + words['relabel']} earlier verdicts are carried out in this table." in said
    assert "with a problem" not in said


def decision(line, place):
    """What a reviewer who knows the truth decides; wrong labels are mended and removed in turn."""
    if line["label"] == line["true_label"]:
        return "keep", None
    return ("relabel", line["true_label"]) if place % 2 else ("remove", None)
