from __future__ import annotations

import pytest

from auditor.config import parse_config
from auditor.distributed.room import lack, places, threads_alone
from auditor.errors import InputError
from auditor.sections.running import Resources

MACHINES = [{"CPU": 4.0, "GPU": 1.0, "a100": 1.0}, {"CPU": 4.0}, {"CPU": 1.0}]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"CPU": 1}, 9),
        ({"CPU": 2}, 4),
        ({"CPU": 5}, 0),
        ({"CPU": 1, "GPU": 1}, 1),
        ({"CPU": 0.1, "GPU": 0.1}, 10),
        ({"CPU": 1, "a100": 0.25}, 4),
        ({"CPU": 1, "tpu": 1}, 0),
    ],
)
def test_a_worker_needs_one_machine_with_all_it_asks_for(asked, found):
    assert places(asked, MACHINES) == found


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"train_workers": 9}, None),
        ({"score_actors": 8}, None),
        ({"score_actors": 9}, "asks for 10 CPU, the Ray cluster has 9 CPU"),
        ({"train_workers": 10}, "asks for 10 CPU, the Ray cluster has 9 CPU"),
        ({"retrainers": 10}, "asks for 10 CPU, the Ray cluster has 9 CPU"),
        ({"gpus_per_worker": 0.5, "train_workers": 2}, None),
        (
            {"gpus_per_worker": 2, "cpus_per_worker": 9},
            "asks for 10 CPU and 2 GPU, the Ray cluster has 9 CPU and 1 GPU",
        ),
        ({"custom": {"tpu": 0.5}, "train_workers": 3}, "asks for 1.5 tpu, the Ray cluster has 0 tpu"),
        (
            {"cpus_per_worker": 3, "train_workers": 3},
            "asks for 3 workers of 3 CPU each, the Ray cluster's machines have room for 2",
        ),
    ],
)
def test_what_is_lacking_is_said_with_what_there_is(asked, words):
    assert lack(Resources(**asked), MACHINES) == words


@pytest.mark.parametrize(
    ("asked", "cpus", "threads"),
    [
        ({"score_actors": 2, "cpus_per_worker": 3}, 16, 6),
        ({"score_actors": 8, "cpus_per_worker": 3}, 16, 16),
        ({"score_actors": 1, "cpus_per_worker": 3}, 16, 3),
        ({"score_actors": 8, "cpus_per_worker": 3}, 0, 3),
    ],
)
def test_what_precedes_the_actors_has_their_threads_as_far_as_its_machine_has_them(asked, cpus, threads):
    assert threads_alone(Resources(**asked), cpus) == threads


@pytest.mark.parametrize("name", ["CPU", "GPU", "memory"])
def test_what_has_a_key_of_its_own_is_no_custom_resource(name):
    with pytest.raises(InputError, match=rf"resources\.custom\.{name}.*: is no custom resource; CPUs and GPUs are"):
        parse_config({"run": "r", "data": {"source": {"kind": "digits"}}, "resources": {"custom": {name: 1}}})
