from __future__ import annotations

import html

from hypothesis import given
from hypothesis import strategies as st

from auditor.report.note import escape, note
from auditor.report.ranking import rank_samples
from auditor.report.summary import summarise, verdict
from tests.report.builders import Audit


def _note(path, **settings):
    config, run = Audit(**settings).write(path)
    summary = summarise(rank_samples(config, run), {}, run)
    return summary, note(summary, "#/page/report.html", "models:/m-1")


def test_it_says_first_what_was_found_and_what_to_open(tmp_path):
    summary, text = _note(tmp_path)
    assert text.startswith(f"**{verdict(summary)[0]}** Open [report.html](#/page/report.html) first")
    assert "does not measure" in text
    assert 'mlflow.pytorch.load_model("models:/m-1")' in text
    assert text.count("\n| ") == 12


def test_it_fits_a_tag_however_wild_the_names(tmp_path):
    ids = [f"{row}{'<|*&' * 100}" for row in range(40)]
    names = ["[x](javascript:alert(1))" * 9, "<script>" * 9]
    query = f"the loss on validation samples of class {names[0]}"
    _, text = _note(tmp_path, sample_ids=ids, class_names=names, query=query)
    assert len(text) < 8000
    assert "<script" not in text
    assert "](javascript" not in text
    assert text.count("\n| ") == 12


@given(st.text(max_size=60))
def test_escaped_text_is_one_line_that_reads_as_it_was(text):
    escaped = escape(text, 60)
    assert not set(escaped) & set("<>|*_`[]()\\\"'\n")
    assert (
        html.unescape(escaped) == " ".join(text.split()) or "\x00" in text or any(ord(letter) < 32 for letter in text)
    )
