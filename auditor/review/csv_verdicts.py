"""Verdicts in a CSV file, for reviewers who work in a spreadsheet."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import cast

from auditor.errors import InputError
from auditor.review.verdicts import WORDS, Verdict, Word

COLUMNS = ("sample_id", "verdict", "new_label", "comment", "reviewer")
_REQUIRED = ("sample_id", "verdict")


def read_csv(
    path: str | Path,
    sample_ids: Collection[str],
    class_names: Sequence[str],
    now: datetime,
    ranked: Collection[str] = (),
) -> list[Verdict]:
    """Read verdicts; every row must be usable, or none is taken.

    Args:
        path: UTF-8, with a header: sample_id and verdict, and where wanted new_label, comment, reviewer.
        sample_ids: Of the audited training samples.
        class_names: What new_label may be.
        now: The time of these verdicts, in UTC.
        ranked: Columns of ranked.csv. A file may be that one with columns added: these are passed over, and so are
            rows without a verdict then.

    Returns:
        A verdict a row; rows that are all empty are passed over.

    Raises:
        InputError: The file cannot be read, or a row names an unknown sample, word or label; the row is named by its
            line in the file.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            return list(_verdicts(path, file, sample_ids, class_names, now, ranked))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is no CSV in UTF-8 ({error})") from error


def news(verdicts: Sequence[Verdict], history: Sequence[Verdict]) -> list[Verdict]:
    """Those that say something else than the same reviewer's newest one from a file.

    Of several rows of one reviewer about one sample the last counts. A file that is read again adds nothing, and undoes
    nothing that was decided in MLflow since.

    Args:
        verdicts: From a file.
        history: What is known, the oldest first.
    """
    known = {(v.sample_id, v.reviewer): (v.verdict, v.new_label, v.comment) for v in history if v.source == "csv"}
    last = {(v.sample_id, v.reviewer): v for v in verdicts}
    return [v for who, v in last.items() if known.get(who) != (v.verdict, v.new_label, v.comment)]


def _verdicts(
    path: str | Path,
    file: Iterator[str],
    sample_ids: Collection[str],
    class_names: Sequence[str],
    now: datetime,
    ranked: Collection[str],
) -> Iterator[Verdict]:
    rows = csv.DictReader(file)
    columns = rows.fieldnames or []
    missing = [name for name in _REQUIRED if name not in columns]
    others = [name for name in columns if name not in COLUMNS]
    unknown = [name for name in others if name not in ranked]
    if missing or unknown:
        problem = f"has no column {missing[0]}" if missing else f"has an unknown column {unknown[0]!r}"
        raise InputError(f"{path}: {problem}; its columns are to be {', '.join(COLUMNS)}")
    for row in rows:
        where = f"{path}, line {rows.line_num}"
        if None in row:
            raise InputError(f"{where}: has more cells than the header")
        cells = {name: (row.get(name) or "").strip() for name in COLUMNS}
        undecided = not (cells["verdict"] or cells["new_label"])
        if not any(cells.values()) or (others and undecided):
            continue
        sample_id = _plain(cells["sample_id"], sample_ids)
        if sample_id not in sample_ids:
            raise InputError(f"{where}: sample_id {sample_id!r} is not among the audited training samples")
        word = cells["verdict"].lower()
        if word not in WORDS:
            raise InputError(f"{where}: verdict {cells['verdict']!r} is unknown, expected one of {', '.join(WORDS)}")
        label = _plain(cells["new_label"], class_names) or None
        if word == "relabel" and label is None:
            raise InputError(f"{where}: relabel of {sample_id!r} needs a new_label")
        if label is not None and label not in class_names:
            raise InputError(f"{where}: new_label {label!r} is no class of this audit ({_some(class_names)})")
        new_label = label if word == "relabel" else None
        reviewer = cells["reviewer"] or "csv"
        yield Verdict(sample_id, cast(Word, word), new_label, cells["comment"], reviewer, now, "csv")


def _plain(text: str, known: Collection[str]) -> str:
    """Without the apostrophe that ranked.csv puts before text which a spreadsheet would take for a formula."""
    return text[1:] if text.startswith("'") and text not in known and text[1:] in known else text


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:10])
    return shown if len(names) <= 10 else f"{shown}, … {len(names)} in all"
