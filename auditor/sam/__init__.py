"""SAM training as pure functions. Imports torch only."""

from auditor.sam.network import Network
from auditor.sam.perturbation import Perturbation, Tensors
from auditor.sam.schedule import learning_rate
from auditor.sam.step import MicroBatch, MicroBatchResult, State, StepSettings, sam_step, sgd_step
from auditor.sam.variants import VARIANTS, make_perturbation

__all__ = [
    "VARIANTS",
    "MicroBatch",
    "MicroBatchResult",
    "Network",
    "Perturbation",
    "State",
    "StepSettings",
    "Tensors",
    "learning_rate",
    "make_perturbation",
    "sam_step",
    "sgd_step",
]
