"""At most one audit of a schedule at a time, whoever starts it."""

from __future__ import annotations

import fcntl
import os
import threading
import time
import uuid
from contextlib import suppress
from typing import Any, Protocol

from auditor.storage import RunFolder

LEASE_SECONDS = 120.0
_SETTLE_SECONDS = 2.0
_LOCK_FILE = "lock"
_LEASE_FILE = "lease.json"


class Lock(Protocol):
    """Held by one process at a time."""

    patience: float
    """Seconds after which one that nobody holds any longer is free at the latest."""
    descriptors: tuple[int, ...]
    """To hand to a child process, which then holds it too."""

    def acquire(self) -> bool:
        """Take it, if nobody has it; returns whether it is ours."""

    def release(self) -> None:
        """Give it back."""


def lock_of(folder: RunFolder) -> Lock:
    """The lock of a schedule's folder: of the operating system, or on object stores a lease."""
    return _FileLock(folder) if folder.local is not None else _Lease(folder)


class _FileLock:
    """Ends with the last process that holds it, however that ends; works on file systems that machines share, too."""

    patience = 0.0

    def __init__(self, folder: RunFolder) -> None:
        self._path = f"{folder.make('')}/{_LOCK_FILE}"
        self.descriptors: tuple[int, ...] = ()

    def acquire(self) -> bool:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self.descriptors = (descriptor,)
        return True

    def release(self) -> None:
        for descriptor in self.descriptors:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)
        self.descriptors = ()


class _Lease:
    """A file that says who holds it until when, renewed as long as its holder lives.

    Object stores have no lock. Two that write at once look again a little later; the one that wrote last has it.
    """

    patience = LEASE_SECONDS + 2 * _SETTLE_SECONDS
    descriptors: tuple[int, ...] = ()

    def __init__(self, folder: RunFolder, seconds: float = LEASE_SECONDS, settle: float = _SETTLE_SECONDS) -> None:
        self._folder = folder
        self._seconds, self._settle = seconds, settle
        self._me = uuid.uuid4().hex
        self._released = threading.Event()
        self._renewal: threading.Thread | None = None

    def acquire(self) -> bool:
        if self._other_holds():
            return False
        self._write()
        time.sleep(self._settle)
        if self._read().get("holder") != self._me:
            return False
        self._released.clear()
        self._renewal = threading.Thread(target=self._renew, daemon=True)
        self._renewal.start()
        return True

    def release(self) -> None:
        if self._renewal is not None:
            self._released.set()
            self._renewal.join()
            self._renewal = None
            self._folder.remove(_LEASE_FILE)

    def _other_holds(self) -> bool:
        lease = self._read()
        return bool(lease and lease["holder"] != self._me and lease["until"] > time.time())

    def _read(self) -> dict[str, Any]:
        try:
            return dict(self._folder.read_json(_LEASE_FILE))
        except FileNotFoundError:
            return {}

    def _renew(self) -> None:
        while not self._released.wait(self._seconds / 4):
            # A store that is away for a moment is tried again; the lease lasts longer than that.
            with suppress(OSError):
                self._write()

    def _write(self) -> None:
        self._folder.write_json(_LEASE_FILE, {"holder": self._me, "until": time.time() + self._seconds})
