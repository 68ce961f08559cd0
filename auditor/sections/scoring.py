"""Sections about scores: what they are about, how they are computed, and how they are verified."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from auditor.methods import METHODS
from auditor.sections.section import NameText, PositiveInt, Section


class Query(Section):
    """What influence is measured on: f, the mean loss over the validation rows that are chosen; all by default."""

    class_name: NameText | None = None
    """The validation rows of this class."""
    sample_ids: Annotated[list[NameText], Field(min_length=1)] | None = None
    """The validation rows with these ids: one row asks why the model does what it does with it."""

    @model_validator(mode="after")
    def _one_choice(self) -> Query:
        if self.class_name is not None and self.sample_ids is not None:
            raise ValueError("class_name and sample_ids are given, a query is one of them")
        return self


class Replay(Section):
    """Exact influence by sweeping training backwards."""

    horizon: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of training to sweep, counted from its end."""
    memory_gib: Annotated[float, Field(gt=0)] = 2.0
    """Memory of each worker for the states of one segment; less means more of them are computed again."""
    tolerance: Annotated[float, Field(ge=0)] = 1e-3
    """Largest relative difference to a recorded checkpoint before replay is refused."""


class Hif(Section):
    """Influence by one linear solve at the end of training: `hif_full`, `hif_fast`, `hif`, `influence`, `ekfac`."""

    solver: Literal["gmres", "bicgstab", "neumann", "cg"] = "gmres"
    """`gmres` and `bicgstab` for any matrix, `neumann` where its series converges, `cg` with the Gauss-Newton matrix
    (`hif_fast` and `influence` alone). `ekfac` is always solved in its own closed form."""
    damping: Annotated[float, Field(ge=0)] | None = None
    """Added to the diagonal; null computes 0.003, 0.01, 0.03, 0.1 and 0.3, and names columns `hif_full@0.1`, 0.01
    being the plain ones; `ekfac_self` has that one alone."""
    iterations: PositiveInt = 100
    """Most products with the matrix in one solve; `gmres` keeps a vector of the parameters' size for each."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Relative residual at which a solve ends; one that stays above is recorded as not converged."""
    rows: PositiveInt | None = None
    """Training rows, drawn by the seed, that stand for all in products with the matrix; null takes all. Influences
    are given to all rows all the same."""


def _known(name: str) -> str:
    if name not in METHODS:
        raise ValueError(f"expected one of {', '.join(METHODS)}")
    return name


MethodName = Annotated[str, AfterValidator(_known), WithJsonSchema({"enum": list(METHODS)})]
"""A score; see `docs/concepts.md` for what each means."""


class Score(Section):
    """Which scores to give every training sample."""

    methods: Annotated[list[MethodName], Field(min_length=1)] = ["replay", "gif", "loss", "margin", "aum"]
    """Score columns to write."""
    checkpoints: Annotated[int, Field(ge=1)] | None = None
    """Use this many of the recorded checkpoints, spread evenly; all of them by default."""
    ablation: bool = False
    """Beside `gif`, write `gif@3`, `gif@5` and `gif@10`: GIF with that many of the checkpoints."""
    trak_dimensions: PositiveInt = 256
    """Columns of TRAK's random projection, best below half of the training rows."""
    folds: Annotated[int, Field(ge=2)] = 5
    """Parts of the training rows for `out_of_sample`, which trains once without each: a part is judged by the model
    that did not see it."""
    batch_size: PositiveInt = 128
    """Rows a scoring pass; halved where a GPU's memory has no room for them."""
    compile: bool = False
    """Compile the pass that methods take for each checkpoint (`torch.compile`; for CPUs it takes a C++ compiler): a
    quarter less time, after up to a minute in each actor. It is tried first, and left out where it gives other
    numbers."""

    precision: Literal["bfloat16"] | None = None
    """Type of the numbers that those passes, and those of `explain`, compute with; null is that of the parameters. What
    it costs is measured on 256 samples first and stands in the report; where ranks change, null is used."""

    @model_validator(mode="after")
    def _ablates_what_is_scored(self) -> Score:
        if self.ablation and "gif" not in self.methods:
            raise ValueError("ablation is of gif, which is not among methods")
        return self


class Explain(Section):
    """Why the model gets single validation images wrong: the training samples that moved their loss most."""

    images: PositiveInt = 12
    """Validation rows to explain: misclassified ones, those of the highest loss first."""
    samples: PositiveInt = 6
    """Training samples to name for each, of those that helped most and of those that harmed most."""
    method: Literal["ekfac", "gif"] = "ekfac"
    """`ekfac`: the curvature at the end of training, one pass over the training rows for all images together; `gif`:
    a pass for each checkpoint."""
    damping: Annotated[float, Field(gt=0)] = 0.01
    """Of `ekfac`, beside the weight decay."""
    memory_gib: Annotated[float, Field(gt=0)] = 2.0
    """Memory for the directions of images, once on each machine and, with GPUs, once in each (`score.precision` takes
    half as much again for each actor); where not all have room, the training rows are passed over again for the
    others."""


EditMethod = Literal["replay", "hif_full", "hif_fast", "hif", "influence", "ekfac", "gif"]


class Edit(Section):
    """Weights without some of the training samples: see the page about [editing](editing.md)."""

    remove: Literal["verdicts", "harmful", "helpful", "random"] | Annotated[list[NameText], Field(min_length=1)] = (
        "verdicts"
    )
    """Which samples: those that reviewers want removed or relabelled, the most harmful or most helpful ones by the
    score that ranks the report (where that is a detector, by what `auto` would take of those that predict), random
    ones, or those with these ids."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of the training rows, for `harmful`, `helpful` and `random`."""
    methods: Annotated[list[EditMethod], Field(min_length=1)] = ["replay"]
    """`replay`: the last part of training once more without the samples; all others move the final weights,
    by one solve (`ekfac`: a few passes over the rows; the others: up to `hif.iterations` products, which can take
    longer than a short training), or, with `gif`, by gradients at the checkpoints."""
    horizon: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of training that `replay` takes again, counted from its end, and to the checkpoint before."""
    damping: Annotated[float, Field(ge=0)] = 0.01
    """Of the solves, beside the weight decay; solver, iterations, tolerance and rows are those of `hif`."""
    compare: bool = False
    """Train again without the samples from the beginning, and compare."""


class Verify(Section):
    """Real retrainings without chosen samples, which show how far the scores can be trusted."""

    during_run: bool = True
    """Whether `auditor run` verifies; `auditor verify` does in any case."""
    leave_one_out: Annotated[int, Field(ge=0)] = 12
    """Retrainings without a single sample: most harmful, most helpful and random ones in turn."""
    subsets: Annotated[int, Field(ge=0)] = 12
    """Retrainings without a random subset, for each drop rate."""
    drop_rates: list[Annotated[float, Field(gt=0, lt=1)]] = [0.05]
    """Shares of the training rows that the random subsets leave out."""
