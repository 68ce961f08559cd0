"""What the files of jobs/ share: the arguments of a job, and how it ends."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable

from auditor.audit import Audit
from auditor.process import ending, talk


def job(work: Callable[[Audit], Iterable[str]]) -> None:
    """Run a job with the arguments of the command line: CONFIG, --run, --set and --verbose, as for the command.

    Args:
        work: Given the audit; the sentences it returns are printed. Its docstring is the job's help.
    """
    parser = argparse.ArgumentParser(description=work.__doc__)
    parser.add_argument("config", metavar="CONFIG", help="the configuration's file")
    parser.add_argument("--run", metavar="DIR", help="use this run folder instead of the configuration's")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY.PATH=VALUE", help="override any key; repeatable"
    )
    parser.add_argument("--verbose", action="store_true", help="show what Ray and its workers log")
    given = parser.parse_args()
    # A model of one's own is found in the working directory, as with `python -m`.
    sys.path.insert(0, "")
    with ending():
        talk(verbose=given.verbose)
        for sentence in work(Audit.from_yaml(given.config, given.set, given.run, given.verbose)):
            sys.stdout.write(f"{sentence}\n")
