"""A training loop of one's own, audited: plain PyTorch trains with SAM and records, the audit scores and reports.

Run it anywhere: `python docs/examples/own_loop.py` writes to runs/own-loop and takes under a minute on two cores.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from auditor import Audit, Manifest, Samples, State, TrajectoryRecorder, parse_config
from auditor.models import build_model

# Scoring rebuilds the model from `model` and reads `train.precision`; the rest of `train` is what the report shows.
CONFIG = parse_config(
    {
        "run": "runs/own-loop",
        "data": {
            "source": {"kind": "digits"},
            "limit": {"train": 192, "validation": 100, "test": 100},
            "label_noise": 0.1,
        },
        "model": {"name": "mlp", "args": {"hidden": [32]}},
        "train": {
            "epochs": 3,
            "batch_size": 32,
            "micro_batch_size": 32,
            "optimizer": {"learning_rate": 0.05, "schedule": "constant", "warmup_epochs": 0},
            "checkpoints": 4,
        },
        "report": {"gallery": 12},
    }
)


def describe_training(rows: int) -> Manifest:
    """What this loop is going to do; the recorder refuses a folder that holds another training."""
    train = CONFIG.train
    steps_per_epoch = rows // train.batch_size
    return Manifest(
        rows=rows,
        steps=train.epochs * steps_per_epoch,
        epochs=train.epochs,
        steps_per_epoch=steps_per_epoch,
        batch_size=train.batch_size,
        micro_batch_size=train.micro_batch_size,
        optimizer=train.optimizer.model_dump(),
        perturbation=train.perturbation.model_dump(),
        seed=CONFIG.training_seed,
        checkpoint_steps=tuple(epoch * steps_per_epoch for epoch in range(train.epochs + 1)),
    )


def state_of(model: nn.Module, optimizer: torch.optim.SGD) -> State:
    """Parameters, momentum and buffers as they are now, keyed by the module's names."""
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    momentum = {
        name: optimizer.state.get(value, {}).get("momentum_buffer", torch.zeros_like(value))
        for name, value in model.named_parameters()
    }
    return State(parameters, momentum, dict(model.named_buffers()))


def load(state: State, model: nn.Module, optimizer: torch.optim.SGD) -> None:
    """The opposite of `state_of`: go on from a checkpoint."""
    model.load_state_dict({**state.parameters, **state.buffers})
    for name, value in model.named_parameters():
        optimizer.state[value]["momentum_buffer"] = state.momentum[name]


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Logit of the label minus the largest other one, [m]."""
    own = logits.gather(1, labels[:, None])[:, 0]
    return own - logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)


def train(model: nn.Module, samples: Samples, recorder: TrajectoryRecorder) -> None:
    """SAM around torch.optim.SGD, with what the ledger needs."""
    plan, settings, rho = recorder.manifest, CONFIG.train.optimizer, CONFIG.train.perturbation.rho
    optimizer = torch.optim.SGD(
        model.parameters(), settings.learning_rate, settings.momentum, weight_decay=settings.weight_decay
    )
    restored = recorder.restore()
    if restored is None:
        recorder.checkpoint(0, state_of(model, optimizer))
    else:
        load(restored, model, optimizer)
    for step in range(recorder.next_step, plan.steps):
        epoch, position = divmod(step, plan.steps_per_epoch)
        order = torch.randperm(plan.rows, generator=torch.Generator().manual_seed(epoch))
        rows = order[position * plan.batch_size : (position + 1) * plan.batch_size]
        # Scoring shows the network these same numbers, so they are what it has to be trained on.
        inputs, labels = samples.inputs(rows.numpy()), samples.labels[rows]

        logits = model(inputs)
        losses = cross_entropy(logits, labels, reduction="none")
        losses.mean().backward()
        weights = [value.detach().clone() for value in model.parameters()]
        norm = torch.linalg.vector_norm(torch.stack([value.grad.norm() for value in model.parameters()]))
        with torch.no_grad():
            for value in model.parameters():
                value.add_(value.grad, alpha=rho / float(norm))
        optimizer.zero_grad()

        perturbed_logits = model(inputs)
        perturbed_losses = cross_entropy(perturbed_logits, labels, reduction="none")
        perturbed_losses.mean().backward()
        with torch.no_grad():
            for value, before in zip(model.parameters(), weights, strict=True):
                value.copy_(before)
        optimizer.step()
        optimizer.zero_grad()

        recorder.record(
            step=step,
            epoch=epoch,
            micro_batch=0,  # one micro-batch a step: the whole batch shares one ε
            samples=rows.numpy(),
            learning_rate=settings.learning_rate,
            rho=rho,
            grad_norm=norm,
            loss=losses.detach().mean(),
            signals=(
                losses.detach(),
                margins(logits.detach(), labels),
                perturbed_losses.detach(),
                margins(perturbed_logits.detach(), labels),
                logits.argmax(dim=1),
            ),
        )
        if step + 1 in plan.checkpoint_steps:
            recorder.checkpoint(step + 1, state_of(model, optimizer))


def main() -> None:
    audit = Audit(CONFIG)
    dataset = audit.prepare()
    samples = Samples.load(audit.folder, "train", dataset, cache_gib=1.0, dtype=torch.float32)
    model = build_model(
        CONFIG.model.name, CONFIG.model.args, dataset.input_shape, len(dataset.class_names), CONFIG.seed
    )
    train(model, samples, TrajectoryRecorder(audit.folder, describe_training(len(samples))))
    audit.score()
    summary = audit.report()
    print(f"{summary.flagged} of {summary.rows} samples are flagged: {summary.html}")


if __name__ == "__main__":
    main()
