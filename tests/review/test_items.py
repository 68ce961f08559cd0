from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from auditor.review.evidence import Evidence
from auditor.review.items import (
    PREVIEW_LENGTH,
    chosen,
    code,
    item_id,
    make_item,
    picture_room,
    settled,
    shown_features,
)
from auditor.review.verdicts import Verdict

SEEN = Evidence("cat", "dog", 40)
KEEP = Verdict("a", "keep", None, "", "ada", datetime(2026, 11, 25, tzinfo=UTC), "mlflow", "tr-1", SEEN)


def line(sample_id="a", label="cat", suggested="dog", rank=1, **more):
    row = {"rank": rank, "sample_id": sample_id, "label": label, "suggested_label": suggested}
    return {**row, "suggested_probability": 0.913, "priority": 0.75, "harm": 0.00314159, "flagged": True, **more}


@pytest.mark.parametrize("word", ["keep", "relabel", "remove"])
def test_a_decision_stands_until_the_evidence_changes(word):
    verdict = replace(KEEP, verdict=word)
    assert settled(SEEN, verdict, 9)
    assert settled(Evidence("cat", "dog", 11), verdict, 9)
    assert not settled(Evidence("cat", "dog", 10), verdict, 9)
    assert not settled(Evidence("dog", "dog", 40), verdict, 9)


def test_a_relabel_that_was_carried_out_stands_until_the_model_says_something_new():
    verdict = replace(KEEP, verdict="relabel", new_label="cow")
    assert settled(Evidence("cow", "dog", 40), verdict, 9)
    assert settled(Evidence("cow", "cow", 40), verdict, 9)
    assert not settled(Evidence("cow", "hen", 40), verdict, 9)
    assert not settled(Evidence("cow", "cow", 10), verdict, 9)


def test_a_model_that_agrees_with_the_label_by_now_is_no_reason_to_ask_again():
    assert settled(Evidence("cat", "cat", 40), KEEP, 9)
    assert not settled(Evidence("cat", "hen", 40), KEEP, 9)


def test_an_unsure_reviewer_or_none_or_one_who_saw_nothing_settles_nothing():
    assert not settled(SEEN, replace(KEEP, verdict="unsure"), 9)
    assert not settled(SEEN, replace(KEEP, evidence=None), 9)
    assert not settled(SEEN, None, 9)


def test_the_first_that_nobody_decided_are_chosen():
    lines = [line(sample_id, rank=rank) for rank, sample_id in enumerate("abcd", 1)]
    kept = replace(KEEP, evidence=Evidence("cat", "dog", 2))
    for earlier, count, names, passed in [
        ({}, 2, "ab", 0),
        ({"a": kept}, 2, "bc", 1),
        ({"a": KEEP}, 2, "ab", 0),
        ({"a": kept}, 9, "bcd", 1),
        ({"d": replace(kept, evidence=Evidence("cat", "dog", 4))}, 2, "ab", 0),
    ]:
        found, settled_before = chosen(lines, earlier, count)
        assert ("".join(row["sample_id"] for row in found), settled_before) == (names, passed)


def test_an_item_shows_sample_labels_picture_and_numbers():
    made = make_item(line(loss=5.244789, margin=-5.0, aum=-4.5, gif=-0.0123, note="x"), "run", 1045, "![](data:,)")
    assert made.question == "`a`: the label is `cat`, the model says `dog` (91%)\n\n![](data:,)"
    assert made.evidence.splitlines()[2:5] == [
        "| priority | 0.75 |",
        "| harm | 0.00314 |",
        "| rank by harm | 1 of 1,045 |",
    ]
    assert "| loss | 5.24 |" in made.evidence
    assert made.facts["aum"] == -4.5
    assert "note" not in made.facts
    assert made.tags == {"auditor.sample_id": "a", "auditor.run_id": "run"}
    assert made.item_id == item_id("run", "a") != item_id("other", "a")


def test_the_truth_that_was_kept_aside_is_not_given_away():
    made = make_item(line(true_label="secret"), "run", 9, None)
    assert "secret" not in f"{made}"


def test_texts_stay_within_the_panes_length():
    long = line("i" * 5000, "l" * 5000, "s" * 5000, **{f"gif@{number}": 0.123456 for number in range(200)})
    made = make_item(long, "run", 10**9, f"![]({'x' * picture_room(long)})")
    assert len(made.question) == PREVIEW_LENGTH
    assert len(made.evidence) <= PREVIEW_LENGTH
    assert picture_room(long) > 600


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cat/img_1.jpg", "`cat/img_1.jpg`"),
        ("<script>", "`<script>`"),
        ("a`b", "``a`b``"),
        ("`", "`` ` ``"),
        ("two\nlines", "`two lines`"),
        ("", "` `"),
        ("x" * 20, f"`{'x' * 9}…`"),
    ],
)
def test_text_from_data_is_shown_as_it_is(text, shown):
    assert code(text, 10 if len(text) > 15 else 100) == shown


def test_features_are_told_by_their_first_values():
    assert shown_features([0.5] * 2) == "2 features: 0.5, 0.5"
    assert shown_features([1 / 3] * 13).endswith("0.333, …")
