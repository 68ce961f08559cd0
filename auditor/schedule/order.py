"""What a schedule starts at each tick, and where."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from auditor.config import load_config
from auditor.errors import InputError
from auditor.storage import RunFolder


@dataclass(frozen=True)
class Order:
    """An audit that is wanted again and again."""

    config: str
    """Path of the configuration, which is read again at every tick."""
    run: str
    """The run folder that those of the ticks are named after: `runs/digits` makes `runs/digits-2026-11-30`."""
    overrides: tuple[str, ...] = ()
    address: str | None = None
    """Of the Jobs API that audits are submitted to; without it, they run here."""

    @classmethod
    def from_yaml(
        cls, config: str, overrides: Sequence[str] = (), run: str | None = None, address: str | None = None
    ) -> Order:
        """An order whose configuration is sound.

        Raises:
            InputError: The file, a key, a value or the address is unusable.
        """
        if address is not None and not address.startswith(("http://", "https://")):
            raise InputError(f"--address {address}: expected the URL of a Jobs API, such as http://127.0.0.1:8265")
        return cls(config, load_config(config, overrides, run).run, tuple(overrides), address)

    @property
    def name(self) -> str:
        """The last part of the run folder."""
        return self._path.rpartition("/")[2]

    @property
    def folder(self) -> RunFolder:
        """Where history and lock are, beside the run folders."""
        return RunFolder(self.beside("schedule"))

    def beside(self, label: str) -> str:
        """The run folder of a label."""
        _, separator, query = self.run.partition("?")
        return f"{self._path}-{label}{separator}{query}"

    def command(self, label: str, predecessor: str | None, job: str) -> list[str]:
        """What a shell would be given for a tick's audit.

        Args:
            label: The tick's.
            predecessor: Label of the audit before it.
            job: Submission id, where it is submitted.
        """
        start = ["run", self.config]
        if self.address is not None:
            start = ["submit", "audit", self.config, "--address", self.address, "--name", job]
        sets = list(self.overrides)
        if predecessor is not None:
            sets.append(f"review.predecessor={json.dumps(self.beside(predecessor))}")
        options = [part for override in sets for part in ("--set", override)]
        return [sys.executable, "-m", "auditor", *start, *options, "--run", self.beside(label)]

    @property
    def _path(self) -> str:
        path = self.run.partition("?")[0].rstrip("/")
        return path if "://" in path else str(Path(path).expanduser())
