"""The `auditor` command: arguments and messages only."""

from __future__ import annotations

import sys

from auditor.cli import computing, operating, reviewing
from auditor.cli.base import cli
from auditor.process import ending

__all__ = ["cli", "computing", "main", "operating", "reviewing"]


def main(arguments: list[str] | None = None) -> None:
    """Run the command; exits with 0 when done, 2 when the input is wrong, 143 on SIGTERM, 1 for anything else."""
    # A model of one's own is found beside the configuration's caller, as with `python -m`.
    sys.path.insert(0, "")
    with ending():
        cli.main(arguments, prog_name="auditor", standalone_mode=True)
