"""SAM training as pure functions. Imports torch only."""

from auditor.sam.network import Network
from auditor.sam.perturbation import PerturbationFunction, Tensors, make_perturbation, sam_perturbation
from auditor.sam.schedule import learning_rate
from auditor.sam.step import MicroBatch, MicroBatchResult, State, StepSettings, sam_step, sgd_step

__all__ = [
    "MicroBatch",
    "MicroBatchResult",
    "Network",
    "PerturbationFunction",
    "State",
    "StepSettings",
    "Tensors",
    "learning_rate",
    "make_perturbation",
    "sam_perturbation",
    "sam_step",
    "sgd_step",
]
