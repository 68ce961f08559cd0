from __future__ import annotations

import pytest
import yaml

from auditor.config import load_config
from auditor.errors import InputError
from auditor.schedule.order import Order


@pytest.mark.parametrize(
    ("run", "beside"),
    [
        ("runs/digits", "runs/digits-x"),
        ("runs/digits/", "runs/digits-x"),
        ("s3://audits/digits", "s3://audits/digits-x"),
        ("s3://audits/digits?region=x", "s3://audits/digits-x?region=x"),
    ],
)
def test_run_folders_lie_beside_each_other(run, beside):
    order = Order("audit.yaml", run)
    assert order.beside("x") == beside
    assert order.name == "digits"


def written(tmp_path):
    path = tmp_path / "audit.yaml"
    path.write_text(yaml.safe_dump({"run": str(tmp_path / "it's: #1"), "data": {"source": {"kind": "digits"}}}))
    return str(path)


def test_the_command_line_says_what_the_order_wants(tmp_path):
    order = Order.from_yaml(written(tmp_path), ("seed=7",))
    command = order.command("2026-11-30", "2026-11-23", "")
    assert command[1:5] == ["-m", "auditor", "run", order.config]
    options = dict(zip(command[5::2], command[6::2], strict=True))
    assert options["--run"] == f"{tmp_path}/it's: #1-2026-11-30"
    overrides = [value for option, value in zip(command[5::2], command[6::2], strict=True) if option == "--set"]
    config = load_config(order.config, overrides, options["--run"])
    assert config.review.predecessor == f"{tmp_path}/it's: #1-2026-11-23"
    assert config.seed == 7


def test_an_order_for_a_cluster_submits(tmp_path):
    order = Order.from_yaml(written(tmp_path), address="http://127.0.0.1:8265")
    command = order.command("2026-11-30", None, "it-2026-11-30-1")
    start = ["-m", "auditor", "submit", "audit", order.config, "--address", "http://127.0.0.1:8265"]
    assert command[1:8] == start
    assert command[8:] == ["--name", "it-2026-11-30-1", "--run", order.beside("2026-11-30")]


def test_an_address_that_is_none_is_refused(tmp_path):
    with pytest.raises(InputError, match="--address ray://head:10001: expected the URL of a Jobs API"):
        Order.from_yaml(written(tmp_path), address="ray://head:10001")
