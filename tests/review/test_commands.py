from __future__ import annotations

import json
import logging
import sys

import pytest
import yaml

from auditor.cli import main
from auditor.review.evidence import Ranked
from auditor.review.queue import fill_queue
from tests.report.builders import Audit
from tests.review.builders import answer, prepared, ranked


@pytest.fixture
def command(capsys, monkeypatch):
    """Runs the command in this process: its exit code, output and messages."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    logger = logging.getLogger("auditor")
    before = logger.handlers, logger.propagate, logger.level

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        found = capsys.readouterr()
        return ended.value.code or 0, found.out, found.err

    yield run
    logger.handlers, logger.propagate = before[:2]
    logger.setLevel(before[2])


@pytest.fixture
def audit(tmp_path, uri):
    """A configuration file, its run folder with a filled queue, and the flagged samples."""
    limit = {"train": 120, "validation": 20, "test": 20}
    config, run = prepared(tmp_path / "run", uri, {"kind": "digits"}, limit=limit)
    path = tmp_path / "audit.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    fill_queue(config, run)
    return path, config, run, [line["sample_id"] for line in Ranked.read(run).to_look_at()]


def test_verdicts_are_reviewed_and_exported_from_the_terminal(command, audit, tmp_path):
    path, config, run, flagged = audit
    answer(config, run, flagged[0], "verdict", "remove")
    (tmp_path / "v.csv").write_text(f"sample_id,verdict\n{flagged[1]},keep\n")
    code, out, _ = command("review", path, "--csv", tmp_path / "v.csv")
    assert code == 0
    assert out.startswith("Verdicts: 1 keep, 0 relabel, 1 remove, 0 unsure; 2 of them new.\n8 of 10 samples in the")
    code, out, _ = command("review", path, "--json")
    assert (json.loads(out)["counts"]["remove"], json.loads(out)["added"]) == (1, 0)
    code, out, _ = command("export", path, "--dry-run")
    assert "1 rows removed, 0 relabelled, 1 confirmed as they are.\nNothing was written.\n" in out
    code, out, _ = command("export", path, "--to", tmp_path / "out", "--json")
    assert json.loads(out)["rows"]["train"] == 119
    assert (tmp_path / "out" / "train.parquet").exists()


def test_wrong_input_ends_with_one_sentence_and_code_two(command, audit, tmp_path):
    path, _, run, _ = audit
    (tmp_path / "v.csv").write_text("sample_id,verdict\nnobody,keep\n")
    for arguments, message in [
        (("review", path, "--csv", tmp_path / "v.csv"), "v.csv, line 2: sample_id 'nobody' is not among"),
        (("export", path), "export needs --to DIR, or --dry-run to see what it would do"),
        (("export", path, "--dry-run"), "has no verdict to apply"),
        (("compare", run, tmp_path), "is no run folder with a report"),
    ]:
        code, out, err = command(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert message in err
        assert err.count("\n") == 1


def test_two_runs_are_compared_in_the_terminal(command, tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        ranked(*Audit(seed=seed).write(tmp_path / name))
    code, out, _ = command("compare", tmp_path / "a", tmp_path / "b")
    assert code == 0
    assert out.startswith(f"Since the audit in {tmp_path / 'a'}: ")
    code, out, _ = command("compare", tmp_path / "a", tmp_path / "b", "--json")
    found = json.loads(out)
    assert found["changes"]["resolved"] == len(found["resolved"]) > 0
