"""Layers whose gradients are cheap to differentiate once more, in place of torch's own while a block runs.

Torch takes the second derivative of BatchNorm, of GELU and of a convolution's weights apart into many operations over
whole activations, or into kernels that are slow for these shapes. Here each is written out in few. The results are
the same up to rounding; what is not covered (other layers, BatchNorm in evaluation mode, padding by name) runs as it
always does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.nn import functional
from torch.overrides import TorchFunctionMode

from auditor.influence.double_backward.batch_norm import batch_norm
from auditor.influence.double_backward.convolution import conv2d
from auditor.influence.double_backward.gelu import gelu

_LAYERS: Mapping[Any, Callable[..., Any]] = {
    functional.batch_norm: batch_norm,
    functional.conv2d: conv2d,
    functional.gelu: gelu,
}


class CheapDoubleBackward(TorchFunctionMode):
    """A context: forward passes inside it may be differentiated twice in reverse mode, and no more often."""

    def __torch_function__(
        self, function: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run a layer's own rule where there is one."""
        del types
        return _LAYERS.get(function, function)(*args, **(kwargs or {}))
