"""What a training worker holds and needs with and without `resources.sharded`: python docs/benchmarks/sharded.py.

Two real processes on CPUs (gloo) take SAM steps of a multilayer perceptron; resident memory is read from /proc.
"""

from __future__ import annotations

import ctypes
import gc
import os
import socket
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from auditor.distributed.division import divide
from auditor.models import build_model
from auditor.sam import SGD, MicroBatch, State, make_perturbation, sam_step

WIDTH, LAYERS, ROWS, STEPS = 2048, 10, 32, 6


def resident() -> float:
    """Resident memory of this process in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def live() -> float:
    """What tensors of this process hold, each storage once, in MiB."""
    gc.collect()
    storages = {}
    for one in gc.get_objects():
        if type(one) in (torch.Tensor, torch.nn.Parameter):
            storages[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
    return sum(storages.values()) / 2**20


def peak() -> float:
    """The most it ever was, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def measure(rank: int, ranks: int, port: int, sharded: bool) -> None:
    """Print what the first rank held between steps, its peak and its seconds a step."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    begun = resident()
    model = build_model("mlp", {"hidden": [WIDTH] * LAYERS}, (64,), 10, seed=0)
    division = divide(model, 2, ROWS, torch.device("cpu"), sharded)
    network = division.network
    state = State.initial(network)
    count = sum(value.numel() for value in state.parameters.values())
    rows = division.rows(np.arange(ROWS))
    inputs, labels = torch.randn(2 * ROWS, 64, generator=torch.Generator().manual_seed(0)), torch.arange(2 * ROWS) % 10
    batches = [
        MicroBatch(part[rows], of[rows], torch.ones(len(rows)), 0)
        for part, of in zip(inputs.split(ROWS), labels.split(ROWS), strict=True)
    ]
    mine = [batches[index] for index in division.computed]
    times = []
    for _ in range(STEPS):
        began = time.perf_counter()
        optimizer = SGD(0.01, 0.9, 0.0)
        perturbation = make_perturbation("sam", 0.05)
        state, _, _ = sam_step(network, state, mine, 2, perturbation, optimizer, division.all_reduce)
        times.append(time.perf_counter() - began)
    held = live()
    ctypes.CDLL(None).malloc_trim(0)
    if rank == 0:
        print(
            f"{ranks} workers, {'sharded' if sharded else 'whole'}: {count / 1e6:.1f} million parameters "
            f"({4 * count / 2**20:.0f} MiB); between steps tensors hold {held:.0f} MiB "
            f"and the process {resident() - begun:.0f} MiB more than at first, {peak() - begun:.0f} MiB at its peak; "
            f"median step {sorted(times)[len(times) // 2]:.2f} s",
            flush=True,
        )
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    for workers in map(int, sys.argv[1:] or ["2"]):
        for shared_out in (False, True):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                chosen = free.getsockname()[1]
            mp.start_processes(measure, (workers, chosen, shared_out), nprocs=workers, start_method="spawn")
