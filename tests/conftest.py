from __future__ import annotations

import os

import pytest
import torch

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Sums in one order: results do not depend on how many cores a machine has."""
    torch.set_num_threads(1)
