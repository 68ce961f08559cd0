"""What a replay step costs beside a SAM step: `python -m pytest -m benchmark -s tests/benchmarks/test_replay_cost.py`.

Sweeping a step backwards is `step_pullback`; the state it starts from costs one more SAM step. Times are CPU seconds
of one thread, the smallest of many, the two measured in turns.
"""

from __future__ import annotations

import time

import pytest
import torch

from auditor.influence.replay import Cotangent, step_pullback
from auditor.models import build_model
from auditor.sam import SGD, MicroBatch, Network, State, make_perturbation, sam_step
from tests.influence.networks import tangent

BUDGET = 4.5
"""Of the run's own training time."""
ROWS = 64


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def smallest(works, repeats):
    """CPU seconds of each work, measured in turns."""
    times = [[] for _ in works]
    for _ in range(repeats + 1):
        for work, found in zip(works, times, strict=True):
            began = time.process_time()
            work()
            found.append(time.process_time() - began)
    return [min(found[1:]) for found in times]


@pytest.mark.benchmark
@pytest.mark.parametrize(
    ("label", "name", "args", "shape", "repeats"),
    [
        ("digits resnet, widths 16 32, 8x8", "resnet", {"widths": [16, 32]}, (1, 8, 8), 60),
        ("CIFAR resnet, widths 16 32 64, 32x32", "resnet", {}, (3, 32, 32), 15),
        ("mlp, 64-64-64-10", "mlp", {}, (64,), 300),
    ],
)
def test_replay_costs_at_most_its_budget_of_sam_steps(label, name, args, shape, repeats, monkeypatch):
    network = Network(build_model(name, args, shape, 10, seed=0))
    state, settings, perturbation = State.initial(network), SGD(0.1, 0.9, 5e-4), make_perturbation("sam", 0.05)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(ROWS, *shape, generator=generator)
    batch = MicroBatch(inputs, torch.arange(ROWS) % 10, torch.ones(ROWS), 0)
    cotangent = Cotangent(
        *({key: value.float() for key, value in tangent(state.parameters, seed).items()} for seed in (1, 2))
    )

    def forward():
        sam_step(network, state, [batch], 1, perturbation, settings)

    def backward():
        step_pullback(network, state, state, [batch], 1, perturbation, settings, cotangent)

    def plain_backward():
        with monkeypatch.context() as patch:
            patch.setattr("auditor.influence.double_backward._LAYERS", {})
            backward()

    step, swept, plain = smallest([forward, backward, plain_backward], repeats)
    print(
        f"\n{label}: SAM step {1000 * step:.1f} ms; backwards {swept / step:.2f} SAM steps "
        f"({plain / step:.2f} with torch's own double backward); with the state {1 + swept / step:.2f}"
    )
    assert 1 + swept / step <= BUDGET
