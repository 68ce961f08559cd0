from __future__ import annotations

import numpy as np
import pytest

from auditor.config import parse_config
from auditor.data import prepare, query_name, query_rows
from auditor.errors import InputError
from auditor.sections.scoring import Query
from auditor.storage import RunFolder

NAMES = ["cat", "dog", "eel"]
IDS = [f"v-{row}" for row in range(6)]
LABELS = np.array([0, 1, 0, 1, 1, 0])


def rows(**query):
    return query_rows(Query(**query), NAMES, IDS, LABELS).tolist()


def test_all_rows_those_of_a_class_or_single_ones():
    assert rows() == [0, 1, 2, 3, 4, 5]
    assert rows(class_name="dog") == [1, 3, 4]
    assert rows(sample_ids=["v-5", "v-0", "v-5"]) == [0, 5]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"class_name": "fox"}, r"query\.class_name is 'fox': the classes are 'cat', 'dog', 'eel'"),
        ({"class_name": "eel"}, r"query\.class_name is 'eel': no validation row is of this class"),
        ({"sample_ids": ["v-1", "w-1", "w-2"]}, r"query\.sample_ids: no validation row has the id 'w-1', 'w-2'"),
        ({"sample_ids": [f"w-{row}" for row in range(12)]}, r"'w-9' and 2 more$"),
    ],
)
def test_what_there_is_not_is_refused_by_name(query, message):
    with pytest.raises(InputError, match=message):
        rows(**query)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ({}, "validation loss"),
        ({"class_name": "dog"}, "the loss on validation samples of class dog"),
        ({"sample_ids": ["v-1", "v-1"]}, "the loss on validation sample v-1"),
        ({"sample_ids": ["v-1", "v-2"]}, "the mean loss on 2 validation samples"),
    ],
)
def test_a_query_has_a_name_that_fits_into_a_sentence(query, name):
    assert query_name(Query(**query)) == name


def audit(run, **query):
    limit = {"train": 60, "validation": 20, "test": 20}
    raw = {"run": str(run), "data": {"source": {"kind": "digits"}, "limit": limit}, "query": query}
    return parse_config({**raw, "train": {"batch_size": 32, "micro_batch_size": 8}})


@pytest.mark.parametrize("query", [{"class_name": "ten"}, {"sample_ids": ["digits-9999"]}])
def test_a_query_that_does_not_exist_is_refused_before_anything_is_written(tmp_path, query):
    run = RunFolder(tmp_path)
    with pytest.raises(InputError, match=r"ten|digits-9999"):
        prepare(audit(tmp_path, **query), run)
    assert run.names("") == []


def test_yaml_numbers_are_names_and_one_query_is_asked_at_a_time(tmp_path):
    assert audit(tmp_path, class_name=7).query.class_name == "7"
    with pytest.raises(InputError, match="class_name and sample_ids are given"):
        audit(tmp_path, class_name="7", sample_ids=["a"])
    with pytest.raises(InputError, match=r"query\.sample_ids"):
        audit(tmp_path, sample_ids=[])
