"""An audit in a process of its own, stopped with us."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from threading import Event

_LOOK_SECONDS = 0.2
_GRACE_SECONDS = 60.0
"""From SIGTERM to SIGKILL: enough to close an MLflow run on a distant server."""


def run_child(command: Sequence[str], stop: Event, keep_open: Sequence[int] = ()) -> int:
    """Run a command to its end and return its exit code, as a shell would give it.

    Args:
        command: Program and arguments.
        stop: Once it is set, the command gets SIGTERM, and SIGKILL a minute later.
        keep_open: File descriptors that the command holds too, so that a lock outlives us with it.
    """
    # A session of its own: what a terminal sends at Ctrl-C reaches us alone, and we pass it on.
    process = subprocess.Popen(command, pass_fds=tuple(keep_open), start_new_session=True)  # noqa: S603
    while process.poll() is None:
        if stop.wait(_LOOK_SECONDS):
            process.terminate()
            try:
                process.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return process.returncode if process.returncode >= 0 else 128 - process.returncode
