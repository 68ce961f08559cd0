from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from auditor.distributed.partial_sweep import PARTIAL, PartialSweep, PartialSweeps, remove_partial
from auditor.errors import InputError
from auditor.influence.replay import Cotangent
from auditor.storage import RunFolder
from auditor.trajectory import Manifest
from tests.distributed.builders import config

CPU = torch.device("cpu")
MANIFEST = Manifest(
    rows=5,
    steps=9,
    epochs=3,
    steps_per_epoch=3,
    batch_size=2,
    micro_batch_size=1,
    optimizer={"learning_rate": 0.1},
    perturbation={"rho": 0.05},
    seed=0,
    checkpoint_steps=(0, 4, 9),
    seconds=1.25,
)


def partial(first_step, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, dtype=torch.float32):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    return PartialSweep(
        first_step=first_step,
        began=0.1 + 0.2,
        # Transposed, and one of the two is a view of the other's memory.
        cotangent=Cotangent(
            {"a.weight": (shared := draw(3, 4).T), "b": shared[0]},
            {"a.weight": draw(4, 3), "b": draw(3)},
            {"a.weight": draw(4, 3), "b": draw(3)},
            {"average.a.weight": draw(4, 3), "average.b": draw(3)},
        ),
        gradient=draw(5, dtype=torch.float64),
        shorter={0.75: draw(5, dtype=torch.float64), 0.1: draw(5, dtype=torch.float64)},
        drift={9: 1e-17, 4: 0.1 + 0.2},
    )


def assert_equal(found, expected):
    """Bit for bit."""
    assert (found.first_step, found.began, found.drift) == (expected.first_step, expected.began, expected.drift)
    for part, theirs in expected.cotangent.parts():
        mine = getattr(found.cotangent, part)
        assert list(mine) == list(theirs) == sorted(theirs)
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert torch.equal(found.gradient, expected.gradient)
    assert found.shorter.keys() == expected.shorter.keys()
    assert all(torch.equal(found.shorter[horizon], value) for horizon, value in expected.shorter.items())


def test_what_is_read_is_what_was_written_last_and_nothing_older_stays(tmp_path):
    run = RunFolder(tmp_path)
    sweeps = PartialSweeps(config(tmp_path), run, MANIFEST)
    assert sweeps.read(CPU) is None
    assert sweeps.first_step() == 9
    sweeps.write(partial(4, seed=1))
    run.write_bytes(f"{PARTIAL}/.step-00000000.safetensors.left-by-a-crash", b"half")
    sweeps.write(partial(0))
    assert sweeps.first_step() == 0
    assert_equal(sweeps.read(CPU), partial(0))
    assert run.names(PARTIAL, hidden=True) == ["partial.json", "step-00000000.safetensors"]
    remove_partial(run)
    assert not run.exists(PARTIAL)
    remove_partial(run)


def test_tensors_without_a_marker_count_for_nothing(tmp_path):
    run = RunFolder(tmp_path)
    sweeps = PartialSweeps(config(tmp_path), run, MANIFEST)
    sweeps.write(partial(4))
    sweeps.write(partial(0, seed=1))
    run.write_bytes(f"{PARTIAL}/step-00000004.safetensors", b"written before its marker was")
    assert_equal(sweeps.read(CPU), partial(0, seed=1))
    run.remove(f"{PARTIAL}/partial.json")
    assert sweeps.read(CPU) is None
    assert not run.exists(PARTIAL)


@pytest.mark.parametrize(
    ("changes", "manifest", "same"),
    [
        ({"replay": {"memory_gib": 0.5}, "resources": {"train_workers": 2}}, MANIFEST, True),
        ({"replay": {"horizon": 0.5}}, MANIFEST, False),
        ({"replay": {"tolerance": 1e-6}}, MANIFEST, False),
        ({"evaluation": {"statistics_rows": 32}}, MANIFEST, False),
        ({"query": {"class_name": "3"}}, MANIFEST, False),
        ({}, replace(MANIFEST, seconds=1.5), False),
    ],
)
def test_only_what_decides_the_result_makes_it_another_audits(tmp_path, changes, manifest, same):
    run = RunFolder(tmp_path)
    evaluation = {"evaluation": {"statistics_rows": 64}}
    PartialSweeps(config(tmp_path, **evaluation), run, MANIFEST).write(partial(4))
    other = PartialSweeps(config(tmp_path, **{**evaluation, **changes}), run, manifest)
    assert other.first_step() == (4 if same else 9)
    assert (other.read(CPU) is not None) is same
    assert run.exists(PARTIAL) is same


def test_a_newer_release_is_refused_by_name(tmp_path):
    run = RunFolder(tmp_path)
    sweeps = PartialSweeps(config(tmp_path), run, MANIFEST)
    sweeps.write(partial(4))
    run.write_json(f"{PARTIAL}/partial.json", {**run.read_json(f"{PARTIAL}/partial.json"), "format_version": 99})
    with pytest.raises(InputError, match="format version 99"):
        sweeps.read(CPU)
