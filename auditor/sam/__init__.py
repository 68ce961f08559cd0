"""SAM training as pure functions. Imports torch only."""

from auditor.sam.adamw import AdamW, adamw_step, preconditioner
from auditor.sam.network import Network
from auditor.sam.optimizer import Optimizer, optimizer_at, optimizer_step, second_moment
from auditor.sam.perturbation import Past, Perturbation, Tensors
from auditor.sam.schedule import learning_rate
from auditor.sam.sgd import SGD, sgd_step
from auditor.sam.state import State
from auditor.sam.step import MicroBatch, MicroBatchResult, prepared, sam_step
from auditor.sam.variants import VARIANTS, make_perturbation

__all__ = [
    "SGD",
    "VARIANTS",
    "AdamW",
    "MicroBatch",
    "MicroBatchResult",
    "Network",
    "Optimizer",
    "Past",
    "Perturbation",
    "State",
    "Tensors",
    "adamw_step",
    "learning_rate",
    "make_perturbation",
    "optimizer_at",
    "optimizer_step",
    "preconditioner",
    "prepared",
    "sam_step",
    "second_moment",
    "sgd_step",
]
