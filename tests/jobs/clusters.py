"""A real Ray cluster with its Jobs API, in a process group of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-of-the-tests"  # noqa: S105


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Head:
    """A head node; `address` is its Jobs API, which asks for TOKEN."""

    def __init__(self, **environment: str) -> None:
        gcs, dashboard, agent, agent_grpc, client, metrics = free_ports(6)
        self.address = f"http://127.0.0.1:{dashboard}"
        # Sockets are made below it, and their paths may not be long.
        self._folder = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
        command += ["--node-ip-address", "127.0.0.1", "--port", str(gcs), "--temp-dir", self._folder.name]
        command += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)]
        command += ["--dashboard-agent-listen-port", str(agent), "--dashboard-agent-grpc-port", str(agent_grpc)]
        command += ["--ray-client-server-port", str(client), "--metrics-export-port", str(metrics)]
        command += ["--num-cpus", "4", "--object-store-memory", str(150 * 2**20)]
        self._log = Path(self._folder.name) / "start.log"
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env=job_environment(**environment),
                cwd=self._folder.name,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert self._process.poll() is None, self._log.read_text()
            try:
                urllib.request.urlopen(f"{self.address}/api/version", timeout=1).close()  # noqa: S310
            except urllib.error.HTTPError:
                return  # it answers, and refuses who brings no token
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
            else:
                return
        raise AssertionError(f"Ray did not start: {self._log.read_text()}")

    def end(self) -> None:
        """End this cluster and no other."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._folder.cleanup()


def job_environment(**more: str) -> dict[str, str]:
    """What a cluster and its clients run with: this checkout, this Python, the token."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    ray = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    ray |= {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}
    return {**kept, "PATH": path, "PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true", **ray, **more}
