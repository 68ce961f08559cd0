"""What a replay leaves in the run folder: the influence of every row, and how well the replay went."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from auditor.distributed.partial_sweep import remove_partial
from auditor.distributed.row_scores import write_row_scores
from auditor.distributed.sweep import Sweep
from auditor.storage import RunFolder

REPLAY_FILE = "replay/replay.json"


@dataclass(frozen=True)
class Replay:
    """`replay/replay.json`: how well the replay went."""

    first_step: int
    """The first step that was swept."""
    predictability: float
    """‖λ_0‖ / ‖λ_T‖: growth of the cotangent on its way back."""
    drift: dict[str, float]
    """By recorded checkpoint: relative difference of the parameters that replay came to."""

    @classmethod
    def read(cls, run: RunFolder) -> Replay:
        """What a finished replay wrote."""
        raw = run.read_json(REPLAY_FILE)
        return cls(raw["first_step"], raw["predictability"], raw["drift"])


def write_replay(run: RunFolder, sweep: Sweep) -> None:
    """Keep what a sweep found; replay.json declares it complete, after which nothing partial is needed any more."""
    shorter = {f"replay@{horizon:g}": influence for horizon, influence in sweep.shorter.items()}
    write_row_scores(run, "replay", {"replay": sweep.influence, **shorter})
    found = Replay(sweep.first_step, sweep.predictability, {str(step): value for step, value in sweep.drift.items()})
    run.write_json(REPLAY_FILE, asdict(found))
    remove_partial(run)
