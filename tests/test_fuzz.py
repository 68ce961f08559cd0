"""Whatever a user hands over, the answer is an audit or one sentence: anything else that is raised is a bug."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from auditor.config import load_config, parse_config
from auditor.data import prepare
from auditor.errors import InputError
from auditor.storage import RunFolder
from tests.report.builders import digit_like, png

# The same examples every time: what is found once is found by everybody.
FUZZ = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@contextmanager
def refusals() -> Iterator[list[str]]:
    """Collects the sentence of an InputError; any other error is the test's."""
    told: list[str] = []
    try:
        yield told
    except InputError as error:
        told.append(str(error))


PLAIN = parse_config({"run": "runs/a", "data": {"source": {"kind": "digits"}}}).model_dump(mode="json")
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner))


def leaves(tree, path=()):
    for key, value in tree.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))


PATHS = list(leaves(PLAIN))


def replaced(tree, path, value):
    key, *rest = path
    return {**tree, key: replaced(tree[key], rest, value) if rest else value}


@FUZZ
@given(st.sampled_from(PATHS), VALUES)
def test_any_value_at_any_key_is_taken_or_refused_in_a_sentence(path, value):
    with refusals() as refused:
        parse_config(replaced(PLAIN, path, value))
    assert all("\n" not in sentence.strip() for sentence in refused)


@FUZZ
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_as_a_configuration_are_refused_in_a_sentence(tmp_path, contents):
    (tmp_path / "audit.yaml").write_bytes(contents)
    with pytest.raises(InputError):
        load_config(tmp_path / "audit.yaml")


@FUZZ
@given(st.lists(st.text(max_size=20) | st.sampled_from(["train.epochs=", "=", "a.b=1", "data=3", "run={"]), max_size=3))
def test_any_override_is_taken_or_refused_in_a_sentence(tmp_path, overrides):
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(PLAIN))
    with refusals() as refused:
        load_config(tmp_path / "audit.yaml", overrides)
    assert all(refused)


def table(rows=40):
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, rows)
    images = [{"bytes": png(digit_like(int(label), row)), "path": None} for row, label in enumerate(labels)]
    columns = {"sample_id": [f"s{row}" for row in range(rows)], "image": images, "label": labels}
    return pa.table(columns)


def as_bytes(made):
    buffer = io.BytesIO()
    pq.write_table(made, buffer)
    return buffer.getvalue()


WHOLE = as_bytes(table())


def prepared(tmp_path, contents):
    """Prepare an audit of a table of these bytes, from nothing."""
    (tmp_path / "rows.parquet").write_bytes(contents)
    run = RunFolder(tmp_path / "run")
    run.remove("")
    source = {"kind": "parquet", "train": str(tmp_path / "rows.parquet")}
    data = {"source": source, "split": {"validation": 0.2, "test": 0.2}, "max_quarantined": 0.5}
    small = {"batch_size": 4, "micro_batch_size": 4}
    return prepare(parse_config({"run": run.uri, "data": data, "train": small}), run)


@FUZZ
@given(
    st.integers(0, len(WHOLE) - 1),
    st.binary(min_size=1, max_size=24),
    st.sampled_from(["over", "cut", "in"]),
)
def test_a_damaged_table_is_audited_or_refused_in_a_sentence(tmp_path, place, noise, how):
    tail = {"over": WHOLE[place + len(noise) :], "cut": b"", "in": WHOLE[place:]}[how]
    with refusals() as refused:
        assert prepared(tmp_path, WHOLE[:place] + (b"" if how == "cut" else noise) + tail).splits["train"].rows > 0
    assert all(refused)


COLUMNS = {
    "sample_id": st.none() | st.text(max_size=6) | st.integers(-5, 5),
    "label": st.none() | st.text(max_size=4) | st.integers(-3, 3) | st.floats(),
    "image": st.none() | st.binary(max_size=20),
}


@FUZZ
@given(st.data(), st.sampled_from(list(COLUMNS)), st.integers(1, 30))
def test_any_column_is_audited_or_refused_in_a_sentence(tmp_path, data, name, rows):
    kind = type(data.draw(COLUMNS[name]))
    drawn = data.draw(st.lists(COLUMNS[name], min_size=rows, max_size=rows))
    values = [value if isinstance(value, kind) else None for value in drawn]
    made = table(rows).set_column(table(rows).column_names.index(name), name, pa.array(values))
    with refusals() as refused:
        prepared(tmp_path, as_bytes(made))
    assert all(refused)
