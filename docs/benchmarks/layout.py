"""What it is worth that images lie in memory with their channels innermost: `python docs/benchmarks/layout.py`.

The passes that training, replay and scoring are made of, over one micro-batch of 64 random images, given as they come
and as `Network.quick` lays them out, in turns on one thread: the smallest CPU time of each in milliseconds. A network
with GroupNorm is given them as they come.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from auditor.distributed.computing import set_up
from auditor.influence import PreciseStatistics, step_derivatives
from auditor.influence.passes import micro_batch_hessian
from auditor.models import build_model
from auditor.sam import MicroBatch, Network, State, make_perturbation
from auditor.sam.step import look, micro_batch_pass

ROWS = 64
NETWORKS: dict[str, tuple[str, dict[str, Any], int]] = {
    "resnet 16, 32, 64": ("resnet", {}, 32),
    "the same with relu": ("resnet", {"activation": "relu"}, 32),
    "the same without normalisation": ("resnet", {"norm": "none"}, 32),
    "small_cnn": ("small_cnn", {}, 32),
    "wide_resnet 10, 2": ("wide_resnet", {"depth": 10, "width": 2}, 32),
    "resnet 64, 128, 256": ("resnet", {"widths": [64, 128, 256]}, 32),
    "resnet 16, 32 (8 x 8 pixels)": ("resnet", {"widths": [16, 32]}, 8),
}


class AsTheyCome(Network):
    """A network that is given images as they come."""

    def innermost(self, inputs: Tensor) -> bool:
        """No."""
        del inputs
        return False


def passes(network: Network, images: Tensor) -> dict[str, Callable[[], object]]:
    """What is timed, by its name."""
    state = State.initial(network)
    batch = MicroBatch(images, torch.arange(len(images)) % 10, torch.ones(len(images)), seed=0)
    precise = PreciseStatistics(network, (images,))
    sam, along = make_perturbation("sam", 0.05), state.parameters
    return {
        "gradient": lambda: micro_batch_pass(network, state.parameters, state.buffers, batch),
        "forward": lambda: look(network, state.parameters, state.buffers, batch),
        "Hessian product": lambda: micro_batch_hessian(network, state.parameters, state.buffers, batch, along),
        "gif_step": lambda: step_derivatives(network, state, batch, sam, along),
        "statistics": lambda: precise.value(state.parameters, state.buffers),
    }


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    set_up(threads=1)
    for place, (label, (name, args, size)) in enumerate(NETWORKS.items()):
        images = torch.randn(ROWS, 3, size, size, generator=torch.Generator().manual_seed(0))
        model = build_model(name, args, (3, size, size), 10, seed=0)
        ways = [passes(kind(model), images) for kind in (AsTheyCome, Network)]
        if not place:
            print(f"| network | {' | '.join(ways[0])} |\n| --- |{' ---: |' * len(ways[0])}")
        cells = []
        for work in ways[0]:
            times: list[list[float]] = [[], []]
            for _ in range(given.repeats + 1):
                for way, found in zip(ways, times, strict=True):
                    began = time.process_time()
                    way[work]()
                    found.append(1000 * (time.process_time() - began))
            before, after = (min(found[1:]) for found in times)
            cells.append(f"{before:.1f} → {after:.1f}")
        print(f"| {label} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
