"""Sections about the report, its review, where an audit is logged, and what it runs on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from auditor.sections.scoring import MethodName
from auditor.sections.section import NameText, PositiveInt, Section

AUTO = "auto"
"""The value of `review.predecessor` that looks for one."""


class Report(Section):
    """What is ranked, flagged and shown."""

    rank_by: MethodName | Literal["auto"] = "auto"
    """The score that orders the report; `auto` is the one that agrees best with the run's own retrainings, or, without
    any, the one that can be expected to."""
    flagged: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Largest share of the training rows to flag; by a score that predicts, only samples whose removal is predicted to
    help; by `margin`, the `aum`s, `self_confidence` and `out_of_sample`, only out-voted labels; by `loss`, `ekfac_self`
    and `random`, the whole share."""
    gallery: PositiveInt = 300
    """Samples shown in report.html. Each adds 0.4 kB (8 x 8 pixels) to 10 kB (a photograph) to the page."""
    neighbours: Annotated[int, Field(ge=0, le=20)] = 4
    """Training samples shown with each of them: the nearest by what the model's last layer reads of them."""
    harmed: Annotated[int, Field(ge=0, le=20)] = 4
    """Validation samples shown with each of them: those that it harms most, as far as the model's last layer knows."""


class Review(Section):
    """What people are asked to look at in MLflow: see the page about [review](review.md)."""

    queue: Annotated[int, Field(ge=0, le=1000)] = 50
    """Most flagged samples that `auditor run` puts into a review queue in MLflow, the highest priority first; 0 makes
    no queue."""
    reviewers: Annotated[list[NameText], Field(max_length=10)] = []
    """Who the queue is assigned to, by their names in MLflow; without any, it is open to everybody."""
    predecessor: str | None = AUTO
    """The audit before this one: its verdicts are carried over, what it settled stays out of the queue, and the report
    says what changed. `auto` is the latest finished one with the same `data.source` and `data.columns` in the same
    MLflow experiment, a path or URI a run folder; null compares with nothing."""


class MLflow(Section):
    """Where the audit is logged. Credentials come from MLflow's environment variables, never from here."""

    tracking_uri: str = "sqlite:///mlflow.db"
    """Tracking store or server."""
    experiment: str = "auditor"
    """Experiment name."""
    run_name: str | None = None
    """Name of the run; by default the name of the run folder."""
    registered_model: NameText | None = None
    """Registered model of which edited weights become versions, behind the audited model's own; by default it is named
    like the experiment."""


def _is_custom(name: str) -> str:
    if name in ("CPU", "GPU", "memory", "object_store_memory"):
        raise ValueError("is no custom resource; CPUs and GPUs are cpus_per_worker and gpus_per_worker")
    return name


ResourceName = Annotated[str, AfterValidator(_is_custom)]


class Resources(Section):
    """What the audit runs on. None of these changes its result, so they may differ when a run is resumed."""

    train_workers: PositiveInt = 1
    """Training workers."""
    sharded: bool = False
    """Share parameters, gradients and the optimizer's moments out over the training workers (FSDP2), for a model that
    does not fit on one; the trained model is the same up to rounding. Not with dropout, or a variant of SAM that looks
    at all parameters or samples at once (`sparse_sam`, `esam`, `reweighted_sam`)."""
    score_actors: PositiveInt = 1
    """Scoring actors."""
    cpus_per_worker: PositiveInt = 1
    """CPUs, and threads, of each worker and actor."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    """GPUs of each worker and actor."""
    custom: dict[ResourceName, Annotated[float, Field(gt=0)]] = {}
    """Custom resources of each worker and actor, by the names that the cluster's machines give them: `{a100: 1}`."""
    retrainers: PositiveInt | None = None
    """Retrainings of a verification at a time; by default as many as the cluster has room for."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Worker failures after which training gives up."""
    wait_seconds: Annotated[float, Field(ge=0)] = 600
    """How long to wait for an existing cluster that has less than is asked for, before the audit gives up; one with an
    autoscaler is asked to grow."""
    ray_address: str | None = None
    """An existing cluster (`auto` or an address); by default the surrounding Ray job's, or a local one for this run."""
