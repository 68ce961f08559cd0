"""How a process that computes is set up: its threads, and memory that it keeps instead of asking for it again."""

from __future__ import annotations

import ctypes

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of glibc's mallopt."""


def set_up(threads: int) -> None:
    """Give this process a number of threads, and let it keep memory that it frees.

    By default glibc hands large blocks, such as activations, back to the system when they are freed and takes them anew
    for the next batch, page by page: a fifth of the time of a SAM step and up to a third of a scoring pass, measured on
    CPUs (docs/benchmarks/scoring.md). Kept, they are what the process needs at its peak anyway. Where the C library is
    another one, nothing changes.
    """
    torch.set_num_threads(threads)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        return
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_MMAP_THRESHOLD, 2**30)
