from __future__ import annotations

import itertools

import pytest

from auditor.schedule.size import size_of
from auditor.sections.running import Resources

COUNTS = list(itertools.product((1, 2, 5), (1, 4, 9), (1, 3, 4, 6), (0, 0.3, 0.5, 1, 2)))


@pytest.mark.parametrize(("trainers", "actors", "cpus", "gpus"), COUNTS)
def test_all_workers_fit_with_a_cpu_to_spare(trainers, actors, cpus, gpus):
    resources = Resources(train_workers=trainers, score_actors=actors, cpus_per_worker=cpus, gpus_per_worker=gpus)
    size = size_of(resources)
    room = (size.cpus - 1) // cpus
    if gpus:
        room = min(room, int(size.gpus / gpus + 1e-9))
    assert room * size.most >= max(trainers, actors)
    assert room * (size.most - 1) < max(trainers, actors)
    assert size.shared_gib >= 0.3 * size.memory_gib
    assert (size.kind == "gpu") == (gpus > 0)
