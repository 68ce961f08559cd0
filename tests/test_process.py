from __future__ import annotations

import signal
import subprocess
import sys

PROGRAM = """
import sys, time
from auditor.process import ending
with ending():
    try:
        print("ready", flush=True)
        time.sleep(60)
    except Exception:
        print("taken for an error")
    finally:
        time.sleep(0.3)
        print("closed", flush=True)
"""


def test_sigterm_closes_what_is_open_and_ends_with_143_and_a_sentence():
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # impatience disturbs nothing
    out, err = process.communicate(timeout=20)
    assert process.returncode == 143
    assert out == "closed\n"
    assert err == "stopped on request; the same command goes on where it was\n"
