"""A tiny training recorded by hand."""

from __future__ import annotations

import torch

from auditor.sam import State
from auditor.trajectory import Manifest, TrajectoryRecorder, spread_checkpoints
from auditor.trajectory.order import steps_from


def manifest(rows=10, epochs=4, batch_size=4, micro_batch_size=2, checkpoints=3, **changes):
    steps = epochs * (rows // batch_size)
    return Manifest(
        **{
            "rows": rows,
            "steps": steps,
            "epochs": epochs,
            "steps_per_epoch": rows // batch_size,
            "batch_size": batch_size,
            "micro_batch_size": micro_batch_size,
            "optimizer": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.0, "nesterov": False},
            "perturbation": {"name": "sam", "rho": 0.05, "p": 2.0},
            "seed": 3,
            "checkpoint_steps": spread_checkpoints(steps, checkpoints),
            **changes,
        }
    )


def state(step):
    """A state that says which step it is of."""
    return State(
        {"w": torch.full((3, 2), float(step)), "b": torch.tensor([step * 0.5])},
        {"w": torch.full((3, 2), -float(step)), "b": torch.tensor([0.25])},
        {"norm.num_batches_tracked": torch.tensor(step), "norm.running_mean": torch.arange(2.0) + step},
    )


def loss_of(step, row):
    return torch.tensor(float(step) + 0.01 * float(row))


def record(run, plan, until=None, signals=True):
    """Record up to a step (all by default), as one worker; returns the recorder."""
    recorder = TrajectoryRecorder(run, plan)
    if recorder.restore() is None:
        recorder.checkpoint(0, state(0))
    for step, epoch, micro_batches in steps_from(plan, recorder.next_step):
        if step == until:
            break
        for index, rows in enumerate(micro_batches):
            losses = torch.stack([loss_of(step, row) for row in rows])
            recorder.record(
                step=step,
                epoch=epoch,
                micro_batch=index,
                samples=rows,
                learning_rate=0.1 / (1 + step),
                rho=0.05,
                grad_norm=torch.tensor(1.5),
                loss=losses.mean(),
                signals=(losses, losses - 1, losses + 1, losses - 2, torch.zeros(len(rows), dtype=torch.int64))
                if signals
                else None,
            )
        if step + 1 in plan.checkpoint_steps:
            recorder.checkpoint(step + 1, state(step + 1))
    return recorder
