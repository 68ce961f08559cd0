"""What mixed precision saves on this machine: `python docs/benchmarks/precision.py`.

SAM steps of one micro-batch of 64 random images of 32 x 32 pixels, in 32 bits and in bfloat16, in turns: the smallest
time of each in milliseconds, and how far bfloat16 moves the gradient at the weights that training begins from, relative
to its norm. A machine whose processor does not multiply in bfloat16 gains nothing.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from auditor.models import build_model
from auditor.sam import MicroBatch, Network, State, make_perturbation
from auditor.sam.perturbation import global_norm
from auditor.sam.step import micro_batch_pass, sam_micro_batch

ROWS, SHAPE = 64, (3, 32, 32)
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet 16, 32, 64": ("resnet", {}),
    "resnet 64, 128, 256": ("resnet", {"widths": [64, 128, 256]}),
    "the same with GroupNorm": ("resnet", {"widths": [64, 128, 256], "norm": "group"}),
    "wide_resnet 16, 4": ("wide_resnet", {"depth": 16, "width": 4}),
    "whitened_cnn": ("whitened_cnn", {}),
    "resnet18, small images": ("resnet18", {"small_images": True}),
    "vit": ("vit", {}),
}


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    print(
        "| network | float32, ms | bfloat16, ms | as quick | gradient moved by |\n| --- | ---: | ---: | ---: | ---: |"
    )
    sam = make_perturbation("sam", 0.05)
    images = torch.randn(ROWS, *SHAPE, generator=torch.Generator().manual_seed(0)).to(device)
    batch = MicroBatch(images, torch.arange(ROWS, device=device) % 10, torch.ones(ROWS, device=device), seed=0)
    for label, (name, args) in NETWORKS.items():
        model = build_model(name, args, SHAPE, 10, seed=0).to(device)
        networks = [Network(model), Network(model, torch.bfloat16)]
        state = State.initial(networks[0])
        full, fewer = (
            micro_batch_pass(network, state.parameters, state.buffers, batch).gradient for network in networks
        )
        moved = float(global_norm(value - fewer[key] for key, value in full.items()) / global_norm(full.values()))
        times: list[list[float]] = [[], []]
        for _ in range(given.repeats + 1):
            for network, found in zip(networks, times, strict=True):
                began = time.perf_counter()
                sam_micro_batch(network, state, batch, sam)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                found.append(1000 * (time.perf_counter() - began))
        plain, mixed = (min(found[1:]) for found in times)
        print(f"| {label} | {plain:.0f} | {mixed:.0f} | {plain / mixed:.1f} x | {100 * moved:.1f} % |", flush=True)


if __name__ == "__main__":
    main()
