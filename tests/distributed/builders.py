"""Small audits of the bundled digits."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pyarrow as pa
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from auditor.config import Config, parse_config
from auditor.data import prepare
from auditor.distributed.loop import run_training
from auditor.models.small_cnn import small_cnn
from auditor.storage import RunFolder

# Ranks are forked from a process that has imported, once for all tests, what each would spend seconds on.
multiprocessing.set_forkserver_preload(
    ["__main__", "auditor.data", "auditor.distributed.tasks", "pandas", "psutil", "pyarrow.parquet", "sklearn.datasets"]
)


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
        "score": {"methods": ["gif", "loss", "margin", "aum"]},
        "verify": {"during_run": False},
        "mlflow": {"tracking_uri": f"sqlite:///{run}-mlflow.db"},
    }
    return parse_config({**raw, **changes})


def in_processes(function, world_size: int, *arguments) -> None:
    """Call function(rank, *arguments) in a real gloo group of that many processes, as torchrun would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = world_size, port, dict(os.environ), function, arguments
    mp.start_processes(_rank, settings, nprocs=world_size, start_method="forkserver")


def train_in_processes(audit: Config, world_size: int) -> None:
    """Train with that many workers."""
    in_processes(_train, world_size, audit)


def _train(rank: int, audit: Config) -> None:
    assert run_training(audit, RunFolder(audit.run), torch.device("cpu")) is None


def _rank(rank: int, world_size: int, port: int, environment: dict[str, str], function, arguments) -> None:
    os.environ.clear()
    os.environ.update(environment, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
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


def train_here(audit: Config, wrong: Sequence[int] = ()) -> RunFolder:
    """Prepare and train in this process; returns the run folder, ready to score.

    The labels of the training rows `wrong` become those of the next class but two before training.
    """
    run = RunFolder(audit.run)
    prepare(audit, run)
    if wrong:
        [name] = run.names("dataset/train")
        table = run.read_table(f"dataset/train/{name}")
        labels = [(label + 3 * (row in wrong)) % 10 for row, label in enumerate(table["label"].to_pylist())]
        column = table.column_names.index("label")
        run.write_table(f"dataset/train/{name}", table.set_column(column, "label", pa.array(labels, pa.int32())))
    torch.set_num_threads(1)
    assert run_training(audit, run, torch.device("cpu")) is None
    return run


def ray_train_workers() -> list[psutil.Process]:
    """The Ray Train workers among the processes that this test started."""
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE and any("RayTrainWorker" in part for part in process.cmdline())
    ]


def slow_cnn(input_shape, num_classes, seconds, **args) -> nn.Module:
    """`small_cnn`, which sleeps before every pass; its parameters have the same names."""
    model = small_cnn(input_shape, num_classes, **args)
    model.register_forward_pre_hook(lambda *_: time.sleep(seconds))
    return model


def counted_cnn(input_shape, num_classes, seconds, passes, **args) -> nn.Module:
    """`slow_cnn`, which notes its process in a file for every pass in training mode with a gradient."""
    model = slow_cnn(input_shape, num_classes, seconds, **args)

    def note(module, arguments):
        if module.training and torch.is_grad_enabled():  # no trial of the network
            with Path(passes).open("a") as file:
                file.write(f"{os.getpid()}\n")

    model.register_forward_pre_hook(note)
    return model


def allergic_cnn(input_shape, num_classes, pixels, **args) -> nn.Module:
    """`small_cnn`, whose logits for one image are no numbers once it is trained; its parameters have the same names."""
    model = small_cnn(input_shape, num_classes, **args)
    wanted = torch.tensor(pixels).view(input_shape)

    def react(module, arguments, logits):
        if module.training:
            return logits
        same = (arguments[0] - wanted).abs().amax(dim=(1, 2, 3)) < 1e-5
        return logits * torch.where(same, torch.nan, 1.0)[:, None]

    model.register_forward_hook(react)
    return model


def start_auditor(cwd, *arguments, **environment) -> subprocess.Popen[str]:
    """The real command in a process group of its own."""
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("auditor")), *arguments],
        cwd=cwd,
        env={**os.environ, "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def auditor(cwd, *arguments, **environment) -> subprocess.CompletedProcess[str]:
    """The real command, waited for; should the test end before it, it ends as well."""
    process = start_auditor(cwd, *arguments, **environment)
    try:
        out, err = process.communicate(timeout=280)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
