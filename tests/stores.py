"""A real server that speaks S3, and a gate before it that can answer 503 to everybody for a while."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import boto3

BUCKET = "audits"
SECRET = "not-to-be-seen-anywhere"  # noqa: S105


class Store:
    """moto's server in a process of its own; `address` leads to it through the gate."""

    def __init__(self) -> None:
        self.gate = Gate(port := _free_port())
        self.address = self.gate.address
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, env=self.environment, start_new_session=True, **quiet)
        _wait_for(port, self._process)
        credentials = {"aws_access_key_id": "auditor", "aws_secret_access_key": SECRET}
        client = boto3.client("s3", endpoint_url=self.address, region_name="us-east-1", **credentials)
        client.create_bucket(Bucket=BUCKET)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to work with the store."""
        keys = {"AWS_ACCESS_KEY_ID": "auditor", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_EC2_METADATA_DISABLED": "true"}
        return {**os.environ, **keys, "AWS_ENDPOINT_URL": self.address, "AWS_REGION": "us-east-1"}

    def end(self) -> None:
        self.gate.close()
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Gate:
    """Passes connections on to a port or, while it is closed for everybody, answers 503 to each request."""

    def __init__(self, port: int) -> None:
        self.refused = 0
        """Requests that were answered with 503."""
        self._port = port
        self._until = 0.0
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def refuse(self, seconds: float) -> None:
        """Answer 503 for so many seconds; connections that are open are cut."""
        self._until = time.monotonic() + seconds
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            if time.monotonic() < self._until:
                self._answer(client)
                return
            with socket.create_connection(("127.0.0.1", self._port)) as server:
                self._open |= {client, server}
                there = threading.Thread(target=_pipe, args=(client, server), daemon=True)
                there.start()
                _pipe(server, client)
                there.join()
                self._open -= {client, server}

    def _answer(self, client: socket.socket) -> None:
        client.settimeout(5)
        request = b""
        while b"\r\n\r\n" not in request and (more := client.recv(65536)):
            request += more
        self.refused += 1
        body = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
        head = f"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
        client.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)


def _pipe(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while some := source.recv(65536):
            target.sendall(some)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "the store's server ended"
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise AssertionError("the store's server did not start")
