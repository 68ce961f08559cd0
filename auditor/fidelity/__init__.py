"""How far scores predict real retrainings: what to leave out, and how well prediction and measurement agree."""

from auditor.fidelity.agreement import Statistic
from auditor.fidelity.fidelity import Fidelity, MethodFidelity
from auditor.fidelity.removals import Removal

__all__ = [
    "Fidelity",
    "MethodFidelity",
    "Removal",
    "Statistic",
]
