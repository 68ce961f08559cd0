"""What each Ray Train worker does. Imports come late: Ray's controller loads this module as well."""

from __future__ import annotations

from typing import Any


def work(settings: dict[str, Any]) -> str | None:
    """Compute tasks one after another, all workers together; those that an earlier attempt finished are left alone.

    Args:
        settings: `config`, the configuration as plain values, `run`, the run folder, and `tasks`, their names.

    Returns:
        None at the end, or why a task has no result.
    """
    from ray.train.torch import get_device

    from auditor.config import parse_config
    from auditor.distributed.computing import set_up
    from auditor.distributed.journal import Journal
    from auditor.distributed.tasks import TASKS
    from auditor.storage import RunFolder
    from auditor.trajectory import group

    config, run = parse_config(settings["config"]), RunFolder(settings["run"])
    set_up(config.resources.cpus_per_worker)
    journal = Journal(run) if group.rank() == 0 else None
    for name in settings["tasks"]:
        task = TASKS[name]
        # The first worker alone knows what it has just written; the others wait for it here.
        if group.from_first_rank(lambda task=task: task.finished(run)):  # type: ignore[misc]
            continue
        if journal is not None:
            journal.begin(name, *task.extent(config, run), task.unit)
        progress = journal.reach if journal is not None else lambda _: None
        found = task.work(config, run, get_device(), progress)
        # Some tasks tell the first worker alone; all have to stop together.
        reason: str | None = group.from_first_rank(lambda found=found: found)  # type: ignore[misc]
        if reason is not None:
            return reason
        if journal is not None:
            journal.end()
    return None
