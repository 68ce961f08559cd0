"""The variants of SAM by name, one file each."""

from __future__ import annotations

from collections.abc import Callable

from auditor.sam.perturbation import Perturbation
from auditor.sam.variants.asam import asam
from auditor.sam.variants.gsam import gsam
from auditor.sam.variants.obf import obf
from auditor.sam.variants.sam import sam
from auditor.sam.variants.sparse_sam import sparse_sam

VARIANTS: dict[str, Callable[..., Perturbation]] = {
    "sam": sam,
    "asam": asam,
    "gsam": gsam,
    "sparse_sam": sparse_sam,
    "obf": obf,
}
"""Each takes its settings by name and binds them."""


def make_perturbation(name: str, rho: float, **settings: float) -> Perturbation:
    """A variant by name, with its settings bound.

    Args:
        name: A key of `VARIANTS`.
        rho: Radius ρ.
        settings: What else the variant takes.

    Raises:
        ValueError: The name is unknown.
        TypeError: The variant has no such setting.
    """
    if name not in VARIANTS:
        raise ValueError(f"perturbation {name!r} is not one of {', '.join(VARIANTS)}")
    return VARIANTS[name](rho=rho, **settings)
