from __future__ import annotations

from datetime import UTC, datetime

import pytest

from auditor.errors import InputError
from auditor.review.predecessor import carry_over, predecessor
from auditor.review.verdicts import Verdict, read_verdicts, write_verdicts
from auditor.storage import RunFolder
from tests.report.builders import Audit
from tests.review.builders import ranked


def test_it_is_the_folder_that_the_configuration_names(tmp_path):
    config, run = Audit().write(tmp_path / "a")
    ranked(config, run)
    assert predecessor(config) is None
    found = predecessor(Audit().config(tmp_path / "b", review={"predecessor": str(tmp_path / "a")}))
    assert found.uri == run.uri


@pytest.mark.parametrize(
    ("given", "message"),
    [("b", "is this audit's own run folder"), ("nowhere", "is no run folder with a report")],
)
def test_a_folder_that_cannot_be_one_is_named(tmp_path, given, message):
    config = Audit().config(tmp_path / "b", review={"predecessor": str(tmp_path / given)})
    with pytest.raises(InputError, match=f"review.predecessor .*{given}: {message}"):
        predecessor(config)


def test_its_verdicts_are_carried_over_once_and_later_ones_too(tmp_path):
    before, run = RunFolder(tmp_path / "a"), RunFolder(tmp_path / "b")
    first, second, own = (
        Verdict("x", "keep", None, "", "ada", datetime(2026, 11, day, tzinfo=UTC), "csv") for day in (1, 3, 2)
    )
    carry_over(run, before)
    assert not run.exists("review")
    write_verdicts(before, [first])
    write_verdicts(run, [own])
    carry_over(run, before)
    carry_over(run, before)
    assert read_verdicts(run) == [first, own]
    write_verdicts(before, [first, second])
    carry_over(run, before)
    assert read_verdicts(run) == [first, own, second]
