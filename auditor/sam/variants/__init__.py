"""The variants of SAM by name, one file each."""

from __future__ import annotations

from collections.abc import Callable

from auditor.sam.perturbation import Perturbation
from auditor.sam.variants.asam import asam
from auditor.sam.variants.esam import esam
from auditor.sam.variants.friendly_sam import friendly_sam
from auditor.sam.variants.gsam import gsam
from auditor.sam.variants.look_sam import look_sam
from auditor.sam.variants.momentum_sam import momentum_sam
from auditor.sam.variants.obf import obf
from auditor.sam.variants.reweighted_sam import reweighted_sam
from auditor.sam.variants.sam import sam
from auditor.sam.variants.sgd import sgd
from auditor.sam.variants.sparse_sam import sparse_sam

VARIANTS: dict[str, Callable[..., Perturbation]] = {
    "sam": sam,
    "asam": asam,
    "gsam": gsam,
    "sparse_sam": sparse_sam,
    "obf": obf,
    "friendly_sam": friendly_sam,
    "reweighted_sam": reweighted_sam,
    "esam": esam,
    "look_sam": look_sam,
    "momentum_sam": momentum_sam,
}
"""Each takes its settings by name and binds them."""


def make_perturbation(name: str, rho: float, **settings: float) -> Perturbation:
    """A variant by name, with its settings bound.

    Args:
        name: A key of `VARIANTS`.
        rho: Radius ρ; with 0 every variant is plain gradient descent, of one pass a step.
        settings: What else the variant takes.

    Raises:
        ValueError: The name is unknown.
        TypeError: The variant has no such setting.
    """
    if name not in VARIANTS:
        raise ValueError(f"perturbation {name!r} is not one of {', '.join(VARIANTS)}")
    bound = VARIANTS[name](rho=rho, **settings)
    return bound if rho else sgd()
