from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from auditor.errors import InputError
from auditor.review.csv_verdicts import news, read_csv
from auditor.review.verdicts import Verdict

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
IDS = {"cat/1.jpg", "cat/2.jpg", "=sum", 'say "a, b"'}
CLASSES = ["cat", "dog", "-1"]
HEADER = "sample_id,verdict,new_label,comment,reviewer\n"


def read(folder, text, encoding="utf-8"):
    path = folder / "verdicts.csv"
    path.write_bytes(text.encode(encoding))
    return read_csv(path, IDS, CLASSES, NOW)


def test_rows_become_verdicts(tmp_path):
    text = HEADER + 'cat/1.jpg,Relabel,dog,"ears, tail",ada\n\n"say ""a, b""",keep,,,\n,,,,\n'
    assert read(tmp_path, text) == [
        Verdict("cat/1.jpg", "relabel", "dog", "ears, tail", "ada", NOW, "csv"),
        Verdict('say "a, b"', "keep", None, "", "csv", NOW, "csv"),
    ]


def test_a_spreadsheets_byte_order_mark_and_order_of_columns_do_no_harm(tmp_path):
    (found,) = read(tmp_path, "verdict,sample_id\nremove,cat/2.jpg\n", "utf-8-sig")
    assert (found.sample_id, found.verdict) == ("cat/2.jpg", "remove")


def test_apostrophes_against_formulas_are_taken_off_again(tmp_path):
    (found,) = read(tmp_path, HEADER + "'=sum,relabel,'-1,,\n")
    assert (found.sample_id, found.new_label) == ("=sum", "-1")


def test_a_new_label_counts_for_relabel_alone(tmp_path):
    (found,) = read(tmp_path, HEADER + "cat/1.jpg,keep,dog,,\n")
    assert found.new_label is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("cat/1.jpg,keep,,,\ncat/9.jpg,keep,,,\n", "line 3: sample_id 'cat/9.jpg' is not among the audited"),
        ("cat/1.jpg,delete,,,\n", "line 2: verdict 'delete' is unknown, expected one of keep, relabel, remove, unsure"),
        ("cat/1.jpg,,,,\n", "line 2: verdict '' is unknown"),
        ("cat/1.jpg,relabel,,,\n", "line 2: relabel of 'cat/1.jpg' needs a new_label"),
        ("cat/1.jpg,relabel,cow,,\n", r"line 2: new_label 'cow' is no class of this audit \(cat, dog, -1\)"),
        ("cat/1.jpg,keep,,,ada,more\n", "line 2: has more cells than the header"),
    ],
)
def test_an_unusable_row_is_named(tmp_path, rows, message):
    with pytest.raises(InputError, match=message) as raised:
        read(tmp_path, HEADER + rows)
    assert str(raised.value).startswith(str(tmp_path / "verdicts.csv"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample_id,new_label\n", "has no column verdict; its columns are to be sample_id, verdict,"),
        ("sample_id,verdict,label\n", "has an unknown column 'label'"),
        ("", "has no column sample_id"),
    ],
)
def test_an_unusable_file_is_named(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, text)


def test_the_ranking_with_columns_added_is_such_a_file_and_most_of_its_rows_are_undecided(tmp_path):
    path = tmp_path / "ranked.csv"
    path.write_text("rank,sample_id,label,verdict,new_label\n1,cat/1.jpg,cat,relabel,dog\n2,cat/2.jpg,cat,,\n")
    [found] = read_csv(path, IDS, CLASSES, NOW, ("rank", "sample_id", "label", "harm"))
    assert (found.sample_id, found.verdict, found.new_label) == ("cat/1.jpg", "relabel", "dog")
    path.write_text("rank,sample_id,verdict,new_label\n1,cat/1.jpg,,dog\n")
    with pytest.raises(InputError, match="line 2: verdict '' is unknown"):
        read_csv(path, IDS, CLASSES, NOW, ("rank",))


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.csv: cannot be read \(No such file"):
        read_csv(tmp_path / "nowhere.csv", IDS, CLASSES, NOW)
    with pytest.raises(InputError, match="is no CSV in UTF-8"):
        read(tmp_path, HEADER + "cat/1.jpg,keep,,schön,\n", "latin-1")


def test_a_file_read_again_adds_nothing_but_a_change_of_mind_does(tmp_path):
    first = read(tmp_path, HEADER + "cat/1.jpg,keep,,,ada\ncat/2.jpg,keep,,,ada\n")
    assert news(first, []) == first
    assert news(first, first) == []
    changed = [Verdict("cat/1.jpg", "remove", None, "", "ada", NOW + timedelta(hours=1), "csv")]
    assert news(first, [*first, *changed]) == first[:1]


def test_the_last_of_several_rows_about_a_sample_counts_however_often_they_are_read(tmp_path):
    both = read(tmp_path, HEADER + "cat/1.jpg,keep,,,ada\ncat/1.jpg,remove,,,ada\ncat/1.jpg,keep,,,bob\n")
    known = news(both, [])
    assert [(v.reviewer, v.verdict) for v in known] == [("ada", "remove"), ("bob", "keep")]
    assert news(both, known) == []


def test_a_file_read_again_undoes_nothing_that_was_decided_in_mlflow_since(tmp_path):
    first = read(tmp_path, HEADER + "cat/1.jpg,remove,,,ada\n")
    since = Verdict("cat/1.jpg", "keep", None, "", "ada", NOW + timedelta(hours=1), "mlflow", "tr-1")
    assert news(first, [*first, since]) == []
