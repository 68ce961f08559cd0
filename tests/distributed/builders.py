"""Small audits of the bundled digits."""

from __future__ import annotations

import os
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from auditor.config import Config, parse_config
from auditor.distributed.loop import run_training
from auditor.storage import RunFolder


def config(run, **changes) -> Config:
    """A two-minute network for a two-second test; `changes` replace whole sections."""
    raw = {
        "run": str(run),
        "data": {
            "source": {"kind": "digits"},
            "limit": {"train": 200, "validation": 60, "test": 60},
            "label_noise": 0.1,
        },
        "model": {"name": "small_cnn", "args": {"widths": [8]}},
        "train": {"epochs": 3, "batch_size": 32, "micro_batch_size": 8, "checkpoints": 4},
        "evaluation": {"statistics_rows": 64, "batch_size": 32},
        "mlflow": {"tracking_uri": f"sqlite:///{run}-mlflow.db"},
    }
    return parse_config({**raw, **changes})


def in_processes(function, world_size: int, *arguments) -> None:
    """Call function(rank, *arguments) in a real gloo group of that many processes, as torchrun would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_rank, (world_size, port, function, arguments), nprocs=world_size)


def train_in_processes(audit: Config, world_size: int) -> None:
    """Train with that many workers."""
    in_processes(_train, world_size, audit)


def _train(rank: int, audit: Config) -> None:
    assert run_training(audit, RunFolder(audit.run), torch.device("cpu")) is None


def _rank(rank: int, world_size: int, port: int, function, arguments) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    function(rank, *arguments)
    dist.destroy_process_group()


def equal_states(left, right) -> bool:
    """Bit for bit."""
    return all(
        torch.equal(value, getattr(right, part)[name])
        for part in ("parameters", "momentum", "buffers")
        for name, value in getattr(left, part).items()
    )
