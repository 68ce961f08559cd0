"""What an edit leaves in the run folder: what was asked for, weights, and what each of them says of every sample.

    edits/asked.json             what is to be computed now
    edits/<key>/removal.json     which samples are left out, and why
    edits/<key>/<method>/        the weights, as a checkpoint
    edits/<key>/<method>.parquet loss and margin of every validation, test and removed sample under them
    edits/<key>/<method>.json    how they were found; written last

`key` names the samples, so that nothing is computed twice.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from auditor.config import Config
from auditor.fidelity.removals import Removal
from auditor.storage import RunFolder

EDITS = "edits"
_ASKED = f"{EDITS}/asked.json"

RECORDED, RETRAIN = "recorded", "retrain"
"""The training as it was, and run again from its beginning without the samples: what an edit is compared with."""

OUTCOME_SCHEMA = pa.schema(
    [("split", pa.string()), ("row", pa.int32()), ("loss", pa.float32()), ("margin", pa.float32())]
)
"""A `row` of the splits `validation` and `test`, and of the training rows that were `removed`."""


@dataclass(frozen=True)
class Weights:
    """How some weights were found."""

    settings: dict[str, Any]
    """All that decides them beside the samples."""
    seconds: float
    query_loss: float | None
    """f at them, in nats; None where it is not finite."""
    solved: dict[str, Any] | None = None
    """How a linear system was solved, where there was one."""


@dataclass(frozen=True)
class Asked:
    """What is to be computed."""

    key: str
    methods: dict[str, dict[str, Any]]
    """The settings that decide each."""

    @classmethod
    def read(cls, run: RunFolder) -> Asked:
        """The last request."""
        raw = run.read_json(_ASKED)
        return cls(raw["key"], raw["methods"])

    def missing(self, run: RunFolder) -> list[str]:
        """The methods that have not been computed with these settings."""
        known = {name: read_weights(run, self.key, name) for name in self.methods}
        return [
            name
            for name, settings in self.methods.items()
            if (found := known[name]) is None or found.settings != settings
        ]


def ask(config: Config, run: RunFolder, removal: Removal) -> Asked:
    """Say what is to be computed.

    Args:
        config: The audit; its section `edit` says how.
        run: The run folder.
        removal: What is left out.
    """
    wanted = [*config.edit.methods, *([RETRAIN] if config.edit.compare else [])]
    asked = Asked(removal.key, {name: _settings(config, name) for name in (RECORDED, *dict.fromkeys(wanted))})
    facts = {"kind": removal.kind, "share": removal.share, "rows": list(removal.rows)}
    run.write_json(f"{EDITS}/{asked.key}/removal.json", facts)
    run.write_json(_ASKED, asdict(asked))
    return asked


def read_removal(run: RunFolder, key: str) -> Removal:
    """The samples of a key."""
    facts = run.read_json(f"{EDITS}/{key}/removal.json")
    return Removal(facts["kind"], tuple(facts["rows"]), facts["share"])


def weights_folder(key: str, method: str) -> str:
    """Where a method's weights are."""
    return f"{EDITS}/{key}/{method}"


def read_weights(run: RunFolder, key: str, method: str) -> Weights | None:
    """How a method's weights were found; None where there are none yet."""
    path = f"{weights_folder(key, method)}.json"
    if not run.exists(path):
        return None
    raw = run.read_json(path)
    return Weights(raw["settings"], raw["seconds"], raw["query_loss"], raw["solved"])


def write_weights(run: RunFolder, key: str, method: str, outcome: pa.Table, found: Weights) -> None:
    """Keep what is known of a method's weights, which are in their folder already."""
    run.write_table(f"{weights_folder(key, method)}.parquet", outcome)
    run.write_json(f"{weights_folder(key, method)}.json", asdict(found))


def read_outcome(run: RunFolder, key: str, method: str, split: str) -> pa.Table:
    """Loss and margin of every sample of a split under a method's weights, ordered by row."""
    table = run.read_table(f"{weights_folder(key, method)}.parquet")
    return table.filter(pc.equal(table["split"], split)).sort_by("row")


def _settings(config: Config, method: str) -> dict[str, Any]:
    edit, hif = config.edit, config.hif
    match method:
        case "replay":
            return {"horizon": edit.horizon}
        case "gif":
            return {"checkpoints": config.score.checkpoints}
        case "ekfac":
            return {"damping": edit.damping}
        case "recorded" | "retrain":
            return {}
        case _:
            return {"damping": edit.damping, **hif.model_dump(include={"solver", "iterations", "tolerance", "rows"})}
