"""What a training step moves."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch

from auditor.sam.network import Network
from auditor.sam.perturbation import Tensors, zeros


@dataclass(frozen=True)
class State:
    """Where training is."""

    parameters: Tensors
    """θ"""
    momentum: Tensors
    """Momentum buffer u of SGD, or AdamW's first moment; of the parameters' names and shapes."""
    buffers: Tensors
    second: Tensors = field(default_factory=dict)
    """AdamW's second moment, of the parameters' names and shapes; empty for SGD."""
    memory: Tensors = field(default_factory=dict)
    """What a variant of SAM keeps from one step to the next; empty for most."""

    @classmethod
    def initial(cls, network: Network) -> State:
        """The state before training by SGD and a variant without a memory: the module's own weights, no momentum."""
        parameters = network.parameters()
        return cls(parameters, zeros(parameters), network.buffers())

    def to(self, device: torch.device) -> State:
        """The same state on a device."""
        return State(
            **{part: {name: value.to(device) for name, value in tensors.items()} for part, tensors in self.parts()}
        )

    def parts(self) -> list[tuple[str, Tensors]]:
        """Its fields by name."""
        return [(each.name, getattr(self, each.name)) for each in fields(self)]
