from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import pyarrow as pa
import pytest

from auditor.errors import InputError
from auditor.report import read_report, report, verdict
from auditor.report.changes import Changes
from auditor.review.comparison import changes_since, compare, compared
from auditor.review.evidence import Evidence, Ranked
from auditor.review.verdicts import Verdict, write_verdicts
from auditor.storage import RunFolder
from tests.report.builders import Audit
from tests.review.builders import ranked

MOMENT = datetime(2026, 11, 25, tzinfo=UTC)


def table(flagged: str, rest: str = "", labels: str = "") -> Ranked:
    """Samples of one letter, the most harmful first; those among `labels` have another label."""
    names = list(flagged + rest)
    return Ranked(
        pa.table(
            {
                "rank": pa.array(range(1, len(names) + 1), pa.int32()),
                "sample_id": pa.array(names, pa.string()),
                "label": ["dog" if name in labels else "cat" for name in names],
                "suggested_label": ["dog"] * len(names),
                "harm": [float(len(names) - place) for place in range(len(names))],
                "flagged": [name in flagged for name in names],
            }
        )
    )


def said(sample_id, word, rank=1, label="cat"):
    return {sample_id: Verdict(sample_id, word, "dog", "", "ada", MOMENT, "csv", None, Evidence(label, "dog", rank))}


def test_flags_are_new_persistent_or_resolved():
    found = compared("a", table("abc", "de"), table("bf", "cde"), {})
    assert (found.new, found.persistent, found.resolved, found.reflagged) == (("f",), ("b",), ("a", "c"), ())
    assert found.changes.common == 4
    assert found.changes.settled == {"keep": 0, "relabel": 0, "remove": 0}


def test_decisions_that_stand_are_settled_whether_or_not_they_are_flagged_again():
    verdicts = {**said("a", "keep"), **said("b", "relabel", 2), **said("c", "remove", 3), **said("d", "unsure", 4)}
    # a is flagged still and b has its new label; c is gone.
    found = compared("x", table("abcd", "ef"), table("ad", "bef", labels="b"), verdicts)
    assert found.settled == {"a": "keep", "b": "relabel", "c": "remove"}
    assert found.persistent == ("d",)
    assert found.new == found.reflagged == ()
    assert found.resolved == ("b", "c")


def test_a_decision_whose_evidence_changed_is_flagged_again_but_not_one_that_was_carried_out():
    verdicts = {**said("a", "keep", 4), **said("b", "relabel", 2), **said("c", "keep", 3)}
    found = compared("x", table("bca"), table("abc", labels="b"), verdicts)
    assert found.reflagged == ("a",)
    assert found.settled == {"b": "relabel", "c": "keep"}
    assert (found.new, found.persistent, found.resolved) == ((), (), ())


def test_drift_is_measured_over_the_common_samples():
    same = compared("x", table("ab", "cd"), table("ab", "cd"), {}).changes
    assert (same.harm_spearman, same.median_rank_move) == (pytest.approx(1.0), 0.0)
    turned = compared("x", table("ab", "cd"), table("dc", "ba"), {}).changes
    assert turned.harm_spearman == pytest.approx(-1.0)
    assert turned.median_rank_move == pytest.approx(0.5)
    apart = compared("x", table("ab"), table("cd"), {}).changes
    assert (apart.common, apart.harm_spearman, apart.median_rank_move) == (0, None, None)


def test_the_sentence_says_it_all():
    changes = Changes("runs/a", 1042, 3, 20, 1, 1200, {"keep": 4, "relabel": 0, "remove": 6}, 0.912, 0.03)
    assert changes.sentence == (
        "Since the audit in runs/a: 3 flagged samples are new, 20 were flagged before, 1 are flagged again after a "
        "decision, and 1,200 are resolved; 10 are settled by a verdict (4 keep, 6 remove). Harm of the 1,042 common "
        "samples correlates 0.91 by rank."
    )
    assert replace(changes, harm_spearman=None, settled={"keep": 0, "relabel": 0, "remove": 0}).sentence.endswith(
        "0 are settled by a verdict."
    )
    assert Changes.from_json(changes.to_json()) == changes


def test_two_run_folders_are_compared(tmp_path):
    config, before = Audit().write(tmp_path / "a")
    ranked(config, before)
    config, after = Audit(seed=1).write(tmp_path / "b")
    ranked(config, after)
    first = Ranked.read(before).flagged()[0]
    evidence = Evidence(first["label"], first["suggested_label"], first["rank"])
    write_verdicts(before, [Verdict(first["sample_id"], "keep", None, "", "ada", MOMENT, "csv", None, evidence)])
    found = compare(before, after)
    then, now = ({line["sample_id"] for line in Ranked.read(run).flagged()} for run in (before, after))
    assert set(found.resolved) == then - now
    assert set(found.new) | set(found.persistent) | set(found.reflagged) | now & found.settled.keys() == now
    assert found.changes.common == 40
    with pytest.raises(InputError, match="nowhere: is no run folder with a report"):
        compare(before, RunFolder(tmp_path / "nowhere"))


def test_the_report_of_an_audit_with_a_predecessor_says_what_changed(tmp_path):
    config, before = Audit().write(tmp_path / "a")
    ranked(config, before)
    _, run = Audit().write(tmp_path / "b")
    config = Audit().config(tmp_path / "b")
    summary = report(config, run, partial(changes_since, before, []))
    kept = run.read_json("report/summary.json")["comparison"]
    assert kept == summary.changes.to_json()
    assert (kept["new"], kept["persistent"], kept["harm_spearman"]) == (0, 7, pytest.approx(1.0))
    assert verdict(summary)[-1] == summary.changes.sentence
    assert summary.changes.sentence in run.read_bytes("report/report.html").decode()
    assert read_report(config, run).changes == summary.changes
    alone = report(config, run)
    assert alone.changes is None
    assert run.read_json("report/summary.json")["comparison"] is None
