"""A real PostgreSQL server with a password, gone with its files afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PASSWORD = "pass-word-of-the-database"  # noqa: S105


def postgres_programs() -> Path | None:
    """The folder of initdb and postgres: on the path, or where Debian keeps it."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


class Postgres:
    def __init__(self, programs: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.uri = f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port}/postgres"
        password = self._folder / "password"
        password.write_text(PASSWORD)
        # PostgreSQL refuses to run as root; its package brings a user.
        as_user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        if as_user:
            for path in (self._folder, password):
                shutil.chown(path, **as_user)
        data = self._folder / "data"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": self._folder, **as_user}
        make = ["initdb", "-D", data, "-U", "postgres", "-A", "scram-sha-256", "--pwfile", password, "--no-sync"]
        subprocess.run([programs / make[0], *make[1:]], check=True, **quiet)
        command = ["-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", self._folder, "-c", "fsync=off"]
        self._process = subprocess.Popen([programs / "postgres", *command], start_new_session=True, **quiet)
        deadline = time.monotonic() + 60
        while True:
            assert self._process.poll() is None, "PostgreSQL ended"
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                assert time.monotonic() < deadline, "PostgreSQL did not start"
                time.sleep(0.1)
            else:
                return

    def end(self) -> None:
        self._process.send_signal(signal.SIGQUIT)  # at once, children too
        self._process.wait(timeout=30)
        shutil.rmtree(self._folder)
