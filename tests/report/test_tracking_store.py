from __future__ import annotations

import socket
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.errors import InputError
from auditor.report.tracking_store import clip, connect, flat_metrics, legal_name


def test_metrics_are_flat_numbers_under_dotted_names():
    tree = {
        "rows": 3,
        "loss": None,
        "detection": {"gif": {"auroc": 0.5, "found": {"0.1": 1.0}}},
        "nan": float("nan"),
        "yes": True,
    }
    assert flat_metrics(tree) == {"rows": 3.0, "detection.gif.auroc": 0.5, "detection.gif.found.0.1": 1.0}


@given(st.text(min_size=1, max_size=300))
@settings(deadline=None)
def test_any_name_becomes_one_that_mlflow_takes(name):
    from mlflow.utils.validation import _validate_param_name

    _validate_param_name(legal_name(name))
    assert len(legal_name(name)) <= 250


def test_a_plain_key_keeps_its_name():
    assert legal_name("train.optimizer.learning_rate") == "train.optimizer.learning_rate"


def test_clip_marks_what_it_cuts():
    assert clip("abc", 3) == "abc"
    assert clip("abcd", 3) == "ab…"


def test_a_server_that_is_not_there_is_reported_at_once_and_without_credentials():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(InputError, match=r"mlflow.tracking_uri http://\*\*\*@127.0.0.1:\d+: no server answers"):
        connect(f"http://me:secret@127.0.0.1:{port}")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("uri", ["strange://place", "sqlite:///notes.txt", "sqlite:///notes.txt/mlflow.db", "mlruns"])
def test_a_store_that_cannot_be_opened_is_the_users_to_correct(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("no database" * 100)
    started = time.monotonic()
    with pytest.raises(InputError, match=f"mlflow.tracking_uri {uri}"):
        connect(uri)
    assert time.monotonic() - started < 10
