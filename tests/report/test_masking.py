from __future__ import annotations

import pytest

from auditor.report.masking import mask


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql+psycopg2://me:secret@db.host:5432/mlflow", "postgresql+psycopg2://***@db.host:5432/mlflow"),
        ("s3://key:se+cr@et@bucket/path@2", "s3://***@bucket/path@2"),
        ("https://token@host/", "https://***@host/"),
        (
            "s3://bucket/a?region=eu&secret_key=abc&access_key=def",
            "s3://bucket/a?region=eu&secret_key=***&access_key=***",
        ),
        ("failed for http://a:b@c and http://d:e@f now", "failed for http://***@c and http://***@f now"),
    ],
)
def test_credentials_in_addresses_disappear(text, masked):
    assert mask(text) == masked
    assert mask(masked) == masked


@pytest.mark.parametrize(
    "text", ["sqlite:///mlflow.db", "/data/a@b/c", "mail me@host", "s3://bucket/a@b.png", "0.05", ""]
)
def test_everything_else_stays(text):
    assert mask(text) == text
