from __future__ import annotations

import pytest

from auditor.errors import StageError
from auditor.review.evidence import Evidence, Ranked
from auditor.storage import RunFolder
from tests.report.builders import Audit
from tests.review.builders import ranked


@pytest.mark.parametrize(
    ("now", "differs"),
    [
        (Evidence("cat", "dog", 40), False),
        (Evidence("cat", "dog", 11), False),
        (Evidence("cat", "dog", 10), True),
        (Evidence("cat", "dog", 4000), False),
        (Evidence("dog", "dog", 40), True),
        (Evidence("cat", "cow", 40), True),
    ],
)
def test_evidence_differs_by_label_suggestion_or_a_quarter_of_the_rank(now, differs):
    assert Evidence("cat", "dog", 40).differs(now, 39) is differs


def test_among_the_flagged_a_rank_is_no_news():
    assert not Evidence("cat", "dog", 40).differs(Evidence("cat", "dog", 1), 40)
    assert Evidence("cat", "dog", 40).differs(Evidence("cat", "cow", 1), 40)


def test_samples_are_looked_up_in_the_order_asked_for(tmp_path):
    _, run = _reported(tmp_path)
    table = Ranked.read(run)
    wanted = ["sample-00007", "nobody", "sample-00002", "sample-00007"]
    assert [line and line["sample_id"] for line in table.lines(wanted)] == [
        "sample-00007",
        None,
        "sample-00002",
        "sample-00007",
    ]
    evidence = table.evidence(wanted)
    assert list(evidence) == ["sample-00007", "sample-00002"]
    line = table.lines(["sample-00002"])[0]
    assert evidence["sample-00002"] == Evidence(line["label"], line["suggested_label"], line["rank"])
    flagged = table.flagged()
    assert [line["rank"] for line in flagged] == list(range(1, len(flagged) + 1))
    assert len(flagged) == 7
    first = table.to_look_at()
    assert sorted(line["rank"] for line in first) == [line["rank"] for line in flagged]
    assert [line["priority"] for line in first] == sorted((line["priority"] for line in flagged), reverse=True)
    assert first != flagged


def test_a_run_without_a_report_is_said_so(tmp_path):
    with pytest.raises(StageError, match="holds no report; report first"):
        Ranked.read(RunFolder(tmp_path))


def _reported(path):
    config, run = Audit().write(path)
    ranked(config, run)
    return config, run
