from __future__ import annotations

import pytest

from tests.report.builders import Audit


@pytest.fixture
def written(tmp_path):
    """A run folder with truth and images: (audit, config, run)."""
    audit = Audit()
    return audit, *audit.write(tmp_path / "run")
