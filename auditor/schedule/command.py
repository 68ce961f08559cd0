"""What `auditor schedule` does: keep a schedule here, do what is due now, or make manifests for Kubernetes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Literal

from auditor.config import load_config
from auditor.errors import InputError
from auditor.schedule.cron import Cron, parse_cron
from auditor.schedule.keeper import Keeper
from auditor.schedule.manifests import ADDRESS, Manifests
from auditor.schedule.names import resource_name
from auditor.schedule.order import Order
from auditor.schedule.trigger import Trigger

__all__ = ["Form", "Order", "keep", "once", "parse_cron", "render", "write"]

Form = Literal["cronjob", "raycronjob", "rayjob"]


def keep(order: Order, trigger: Trigger) -> None:
    """Keep a schedule until SIGTERM or SIGINT.

    Raises:
        InputError: Its folder cannot be used.
    """
    with _stopped_by_signals() as stop, _folder_named(order):
        Keeper(order, trigger, stop).keep()


def once(order: Order, trigger: Trigger) -> int:
    """Do what is due now and return the exit code of the audit.

    Raises:
        InputError: The schedule's folder cannot be used.
    """
    with _stopped_by_signals() as stop, _folder_named(order):
        return Keeper(order, trigger, stop).once()


def render(
    path: str,
    overrides: Sequence[str],
    run: str | None,
    cron: Cron | None,
    *,
    form: Form,
    name: str | None,
    image: str,
    address: str | None,
) -> dict[str, str]:
    """Manifests by the names of their files.

    Args:
        path: The configuration's file.
        overrides: `key.path=value` assignments.
        run: Replaces the run folder.
        cron: When; a RayJob has none.
        form: What starts the audit.
        name: Of all that is made; by default the run folder's.
        image: With auditor in it.
        address: Of the Jobs API that a CronJob submits to; by default that of the cluster in deploy/kuberay.

    Raises:
        InputError: The configuration or the name is unusable on Kubernetes, or there is no cron expression.
    """
    config = load_config(path, overrides, run)
    origin = "the run folder's name" if name is None else "--name"
    named = resource_name(name or Order(path, config.run).name, form, origin)
    manifests = Manifests(config, named, image)
    files = {f"{named}-config.yaml": manifests.config_map()}
    if form == "rayjob":
        return {**files, f"{named}-rayjob.yaml": manifests.ray_job()}
    if cron is None:
        raise InputError(f"a {form} needs --cron EXPRESSION")
    if form == "raycronjob":
        return {**files, f"{named}-raycronjob.yaml": manifests.ray_cron_job(cron)}
    return {**files, f"{named}-cronjob.yaml": manifests.cron_job(cron, address or ADDRESS)}


def write(files: dict[str, str], folder: str) -> list[Path]:
    """Write files into a folder, over earlier ones.

    Raises:
        InputError: The folder cannot be written to.
    """
    paths = [Path(folder) / name for name in files]
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, files.values(), strict=True):
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be written to ({error.strerror})") from error
    return paths


@contextmanager
def _stopped_by_signals() -> Iterator[Event]:
    stop = Event()

    def answer(*_: object) -> None:
        # In a thread: the signal may come while this very thread holds the event's own lock.
        threading.Thread(target=stop.set).start()

    before = {number: signal.signal(number, answer) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _folder_named(order: Order) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{order.folder}: cannot hold a schedule ({error})") from error
