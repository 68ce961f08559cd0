"""Room on a cluster: what an audit asks for, and whether the machines that are there have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from auditor.sections.running import Resources


def worker_resources(resources: Resources) -> dict[str, float]:
    """Logical resources of one worker or actor."""
    asked: dict[str, float] = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker:
        asked["GPU"] = resources.gpus_per_worker
    return asked | resources.custom


def most_workers(resources: Resources) -> int:
    """Workers or actors at a time."""
    return max(resources.train_workers, resources.score_actors, resources.retrainers or 1)


def places(asked: Mapping[str, float], machines: Sequence[Mapping[str, float]]) -> int:
    """How many workers fit: each needs one machine that has all it asks for.

    Args:
        asked: Resources of one worker.
        machines: Resources of each machine.
    """
    # Shares of a GPU are no exact numbers: ten tenths are one.
    return sum(
        min(int(machine.get(name, 0.0) / amount + 1e-9) for name, amount in asked.items()) for machine in machines
    )


def threads_alone(resources: Resources, cpus: int) -> int:
    """Threads of work that is done before the scoring actors start: all of theirs that its machine has.

    Args:
        resources: What the audit asks for.
        cpus: Of the machine.
    """
    return max(resources.cpus_per_worker, min(resources.cpus_per_worker * resources.score_actors, cpus))


def lack(resources: Resources, machines: Sequence[Mapping[str, float]]) -> str | None:
    """In words, what an audit asks for and what there is; None where there is enough.

    Args:
        resources: What the audit asks for.
        machines: Resources of each machine.
    """
    each, workers = worker_resources(resources), most_workers(resources)
    asked = {name: amount * workers for name, amount in each.items()}
    # Reading and writing take place beside the scoring actors.
    asked["CPU"] = max(asked["CPU"], resources.score_actors * each["CPU"] + 1)
    there = {name: sum(machine.get(name, 0.0) for machine in machines) for name in asked}
    missing = {name: amount for name, amount in asked.items() if there[name] < amount}
    if missing:
        return f"asks for {_words(missing)}, the Ray cluster has {_words({name: there[name] for name in missing})}"
    found = places(each, machines)
    if found < workers:
        return f"asks for {workers} workers of {_words(each)} each, the Ray cluster's machines have room for {found}"
    return None


def _words(amounts: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in amounts.items())
