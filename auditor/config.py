"""One typed configuration: what an audit reads, trains, scores and reports.

The docstring under a field is its help text; ``docs/configuration.md`` is made from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from auditor.errors import InputError
from auditor.methods import AUTO
from auditor.sections.data import Data
from auditor.sections.running import MLflow, Report, Resources, Review
from auditor.sections.scoring import Edit, Explain, Hif, Query, Replay, Score, Verify
from auditor.sections.section import Section
from auditor.sections.training import Evaluation, Model, Train

_OF_THE_WHOLE = ("sparse_sam", "esam", "reweighted_sam")
"""Variants of SAM that sharded parameters, or rows shared out, cannot serve."""


class Config(Section):
    """An audit."""

    run: str
    """The run folder: a local path or the URI of an object store."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seeds splits, label noise and, unless `train.seed` is given, all that is random in training."""
    data: Data
    """Rows."""
    model: Model = Model()
    """Network."""
    train: Train = Train()
    """Training."""
    evaluation: Evaluation = Evaluation()
    """Evaluation."""
    query: Query = Query()
    """What influence is measured on."""
    replay: Replay = Replay()
    """Exact influence."""
    hif: Hif = Hif()
    """Influence by a linear solve."""
    score: Score = Score()
    """Scoring."""
    verify: Verify = Verify()
    """Verification."""
    report: Report = Report()
    """Report."""
    explain: Explain = Explain()
    """Explanations of single validation images."""
    edit: Edit = Edit()
    """Weights without some samples."""
    review: Review = Review()
    """Review."""
    mlflow: MLflow = MLflow()
    """Tracking."""
    resources: Resources = Resources()
    """Workers."""

    @property
    def training_seed(self) -> int:
        """The seed of training: `train.seed`, or else `seed`."""
        return self.seed if self.train.seed is None else self.train.seed

    @model_validator(mode="after")
    def _solver_fits_the_matrix(self) -> Config:
        for key, methods in (("score.methods", self.score.methods), ("edit.methods", self.edit.methods)):
            if self.hif.solver == "cg" and (found := {"hif_full", "hif"} & set(methods)):
                raise ValueError(
                    f"hif.solver is cg, which solves symmetric systems, and that of {' and '.join(sorted(found))} in "
                    f"{key} is not: gmres and bicgstab solve it"
                )
        return self

    @model_validator(mode="after")
    def _sharding_keeps_the_objective(self) -> Config:
        name, size, workers = self.train.perturbation.name, self.train.micro_batch_size, self.resources.train_workers
        if self.resources.sharded and name in _OF_THE_WHOLE:
            raise ValueError(
                f"resources.sharded does not go with train.perturbation {name}, which looks at all parameters or all "
                "samples of a micro-batch at once"
            )
        if self.resources.sharded and self.train.precision == "bfloat16":
            # Each worker would keep a copy of all weights in fewer bits, and round its part of a gradient by itself,
            # which takes replay of whole parameters as far from the training as bfloat16 itself.
            raise ValueError("resources.sharded does not go with train.precision bfloat16")
        if self.resources.sharded and size < workers:
            raise ValueError(
                f"resources.sharded: the {workers} workers of resources.train_workers share out every micro-batch, and "
                f"train.micro_batch_size is {size}"
            )
        return self

    @model_validator(mode="after")
    def _ranks_by_a_scored_method(self) -> Config:
        if self.report.rank_by not in (AUTO, *self.score.methods):
            raise ValueError(f"report.rank_by is {self.report.rank_by}, which is not among score.methods")
        return self


RECORDED = ("versions", "revision")
"""Keys that config.yaml in a run folder holds beside the configuration."""


def load_config(path: str | Path, overrides: Sequence[str] = (), run: str | None = None) -> Config:
    """Read a YAML configuration; see `read_config` for the arguments.

    Returns:
        The validated configuration.

    Raises:
        InputError: The file is missing or not YAML, or a key is unknown or has an unusable value.
    """
    return parse_config(read_config(path, overrides, run), str(path))


def read_config(path: str | Path, overrides: Sequence[str] = (), run: str | None = None) -> dict[str, Any]:
    """The keys that a YAML configuration and its overrides give, not validated.

    Args:
        path: The YAML file.
        overrides: `key.path=value` assignments, values in YAML, applied in order.
        run: Replaces the run folder.

    Raises:
        InputError: The file is missing or not YAML, or an override cannot be applied.
    """
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected keys and values at the top level")
    for override in overrides:
        _assign(raw, override)
    if run is not None:
        raw["run"] = run
    # What a run adds to the configuration it keeps, so that the kept one can be given again.
    for key in RECORDED:
        raw.pop(key, None)
    return raw


def parse_config(raw: Mapping[str, Any], origin: str = "configuration") -> Config:
    """Validate a mapping.

    Args:
        raw: Keys and values as in YAML.
        origin: Named in error messages.

    Returns:
        The validated configuration.

    Raises:
        InputError: Naming the key, the value and what was expected.
    """
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(" ".join(_explain(problem).split()) for problem in error.errors())
        raise InputError(f"{origin}: {problems}") from None


_FREE = (
    "run",
    "train.reuse",
    "resources.",
    "mlflow.",
    "verify.",
    "report.",
    "explain.",
    "edit.",
    "review.",
    "data.cache_gib",
    "evaluation.batch_size",
    "score.batch_size",
    "score.compile",
    "replay.memory_gib",
)
"""Keys, and beginnings of keys, that may differ when a run folder is used again: where and with how much memory an
audit runs, where it is logged, the report, which can be written again, and its review."""


def differences(old: Config, new: Config) -> list[str]:
    """What changed between two configurations, apart from what changes no result: see `_FREE`.

    Args:
        old: The configuration recorded in a run folder.
        new: The configuration given now.

    Returns:
        One line a changed key, such as ``train.epochs: 30 → 40``.
    """
    before, after = deciding(old), deciding(new)
    return [
        f"{key}: {before.get(key, 'absent')} → {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def deciding(config: Config) -> dict[str, Any]:
    """Dotted keys and plain values of the settings that decide what a run folder holds: all but `_FREE`."""
    return {key: value for key, value in flatten(config).items() if not key.startswith(_FREE)}


def flatten(config: Config) -> dict[str, Any]:
    """Dotted keys and plain values of every setting, for tables and tracking."""
    return dict(_leaves(config.model_dump(mode="json")))


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, tree


def _assign(raw: dict[str, Any], override: str) -> None:
    dotted, separator, text = override.partition("=")
    if not separator or not dotted:
        raise InputError(f"--set {override}: expected key.path=value")
    node: Any = raw
    *parents, last = dotted.split(".")
    for key in parents:
        if node.get(key) is None:
            node[key] = {}
        node = node[key]
        if not isinstance(node, dict):
            raise InputError(f"--set {override}: {key} is a value, not a section")
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"--set {override}: the value is not YAML") from error


_UNIONS = (("data", "source"), ("train", "perturbation"), ("train", "optimizer"))
"""Keys whose section is one of several."""


def _explain(problem: Mapping[str, Any]) -> str:
    place = tuple(str(part) for part in problem["loc"])
    # Below a union its branch's name comes next, although it is no key of the file.
    key = ".".join(place[:2] + place[3:] if place[:2] in _UNIONS else place)
    match problem["type"]:
        case "extra_forbidden":
            return f"unknown key {key}"
        case "missing":
            return f"{key} is missing"
        case _:
            message = str(problem["msg"]).removeprefix("Value error, ")
            message = message[0].lower() + message[1:]
            value = problem["input"]
            shown = "" if isinstance(value, (dict, BaseModel)) else f" is {value!r}"
            return f"{key}{shown}: {message}" if key else message
