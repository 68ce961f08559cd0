"""Learning rates as a function of the step."""

from __future__ import annotations

import math


def learning_rate(step: int, steps: int, warmup_steps: int, peak: float, schedule: str) -> float:
    """The learning rate of one step.

    Linear warm-up reaches the peak after `warmup_steps`; then it stays (`constant`) or follows a cosine that
    would reach zero at `steps` (`cosine`, Loshchilov and Hutter 2017).

    Args:
        step: 0 .. steps − 1.
        steps: Steps of the whole training.
        warmup_steps: Steps of warm-up; 0 for none.
        peak: The largest learning rate.
        schedule: `cosine` or `constant`.

    Returns:
        η, positive for every step.
    """
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return peak
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return peak * 0.5 * (1.0 + math.cos(math.pi * progress))
