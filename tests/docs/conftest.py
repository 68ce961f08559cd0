from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from auditor import RunFolder

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="session")
def own_loop(tmp_path_factory) -> tuple[RunFolder, str]:
    """The run folder that docs/examples/own_loop.py leaves, run as its reader runs it, and what it printed."""
    home = tmp_path_factory.mktemp("own-loop")
    done = subprocess.run(
        [sys.executable, DOCS / "examples" / "own_loop.py"],
        cwd=home,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return RunFolder(home / "runs" / "own-loop"), done.stdout
