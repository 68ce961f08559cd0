"""One typed configuration: what an audit reads, trains, scores and reports.

The docstring under a field is its help text; ``docs/configuration.md`` is made from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from auditor.errors import InputError
from auditor.methods import AUTO, METHODS

Fraction = Annotated[float, Field(ge=0, lt=1)]
PositiveInt = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values never change, docstrings are help texts."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class DigitsSource(Section):
    """Scikit-learn's bundled digits: 1,797 real 8x8 images, cut into splits by `data.split`."""

    kind: Literal["digits"]


class ParquetSource(Section):
    """An audit table in Parquet: a file, a folder of files, or the URI of either."""

    kind: Literal["parquet"]
    train: str
    """Path or URI of the training table."""
    validation: str | None = None
    """Path or URI of the validation table; without it, `data.split.validation` of the training rows."""
    test: str | None = None
    """Path or URI of the test table; without it, `data.split.test` of the training rows."""


class FolderSource(Section):
    """A folder of class folders: `train/cat/1.jpg` has the label `cat` and the sample_id `cat/1.jpg`."""

    kind: Literal["folder"]
    train: str
    """The folder that holds one folder a class."""
    validation: str | None = None
    """The same for validation; without it, `data.split.validation` of the training rows."""
    test: str | None = None
    """The same for test; without it, `data.split.test` of the training rows."""


class TorchvisionSource(Section):
    """A torchvision dataset by its class name; the arguments of each split are passed to it as they are."""

    kind: Literal["torchvision"]
    dataset: str
    """Class name in `torchvision.datasets`, such as `CIFAR10`."""
    train: dict[str, Any]
    """Arguments that make the training split, such as `{root: /data, train: true}`."""
    validation: dict[str, Any] | None = None
    """Arguments that make the validation split; without them, `data.split.validation` of the training rows."""
    test: dict[str, Any] | None = None
    """Arguments that make the test split; without them, `data.split.test` of the training rows."""


class Columns(Section):
    """Which columns of a Parquet source play which part."""

    sample_id: str = "sample_id"
    """Unique and stable between audits."""
    image: str = "image"
    """struct{bytes, path}, or plain bytes, of an encoded image."""
    features: str = "features"
    """list<float>, for tables without images."""
    label: str = "label"
    """Integer or string."""
    true_label: str | None = None
    """The truth where it is known, in the same form as the label: judges detectors, never trains or scores."""


class Split(Section):
    """Shares of the training rows that become validation and test where the source has none of its own."""

    validation: Fraction = 0.15
    """Share of rows for validation, drawn by a hash of (seed, sample_id): a row keeps its split when rows are added."""
    test: Fraction = 0.15
    """Share of rows for test, drawn the same way."""


class Limit(Section):
    """At most this many rows of each split, drawn by a hash of (seed, sample_id)."""

    train: PositiveInt | None = None
    """Training rows to keep."""
    validation: PositiveInt | None = None
    """Validation rows to keep."""
    test: PositiveInt | None = None
    """Test rows to keep."""


class Augmentation(Section):
    """Seeded augmentation of training images, drawn from (seed, epoch, sample)."""

    horizontal_flip: bool = False
    """Mirror half of the images."""
    crop_padding: Annotated[int, Field(ge=0)] = 0
    """Pad by this many pixels of zeros and crop back at a random offset."""


class Data(Section):
    """The rows to train on, to audit and to judge with."""

    source: Annotated[DigitsSource | ParquetSource | FolderSource | TorchvisionSource, Field(discriminator="kind")]
    """Where the rows come from."""
    columns: Columns = Columns()
    """Names of the columns, for Parquet sources."""
    class_names: list[str] | None = None
    """Names of the classes in label order; otherwise the source's own, or the labels found in training."""
    split: Split = Split()
    """Shares for splits that the source does not have."""
    limit: Limit = Limit()
    """Upper bounds on rows."""
    label_noise: Fraction = 0.0
    """Share of training labels to flip (seeded, to another class uniformly), the truth kept aside: for experiments."""
    image_size: tuple[PositiveInt, PositiveInt] | None = None
    """(height, width) to resize to; needed when images differ in size."""
    augmentation: Augmentation = Augmentation()
    """Augmentation of training images."""
    max_quarantined: Fraction = 0.01
    """Largest share of rows (or of classes without rows) that may be set aside as unusable before the audit stops."""
    cache_gib: Annotated[float, Field(gt=0)] = 4.0
    """Decoded images are kept in memory by each worker when they fit into this much; otherwise decoded each time."""


class Model(Section):
    """The network."""

    name: str = "resnet"
    """`resnet`, `small_cnn`, `mlp`, or `module:callable` of your own."""
    args: dict[str, Any] = {}
    """Passed to the factory beside num_classes (and input_shape, where it takes one)."""


class SAM(Section):
    """Foret et al. 2021: ε = ρ g / ‖g‖, the gradient at θ + ε."""

    name: Literal["sam"] = "sam"
    rho: Annotated[float, Field(ge=0)] = 0.05
    """Radius ρ; 0 is plain SGD."""
    p: Annotated[float, Field(gt=1)] = 2.0
    """Norm of the ball; 2 is plain SAM."""


class ASAM(Section):
    """Adaptive SAM (Kwon et al. 2021): ε in proportion to the size of each parameter."""

    name: Literal["asam"]
    rho: Annotated[float, Field(ge=0)] = 0.5
    """Radius ρ, relative to the parameters and so larger than SAM's; 0 is plain SGD."""
    eta: Annotated[float, Field(ge=0)] = 0.01
    """η, added to the parameters' sizes."""


class GSAM(Section):
    """Surrogate gap guided SAM (Zhuang et al. 2022): SAM that also closes the gap between the losses at θ and θ + ε."""

    name: Literal["gsam"]
    rho: Annotated[float, Field(ge=0)] = 0.05
    """Radius ρ; 0 is plain SGD."""
    alpha: Annotated[float, Field(ge=0)] = 0.1
    """α, how much closing the gap counts; 0 is SAM."""


def _plain_sam(raw: Any) -> Any:
    """Settings without a name are plain SAM's."""
    return {"name": "sam", **raw} if isinstance(raw, dict) else raw


class Optimizer(Section):
    """Stochastic gradient descent with coupled weight decay, as in `torch.optim.SGD`."""

    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    """Peak learning rate η."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """μ."""
    nesterov: bool = False
    """Nesterov's form of momentum."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """λ, added to the gradient."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """How the learning rate goes on after warm-up."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    """Epochs of linear warm-up."""


class Train(Section):
    """SAM training."""

    epochs: PositiveInt = 30
    """Passes over the training rows; the rows that do not fill a last batch sit out, all rows in turn."""
    batch_size: PositiveInt = 128
    """Samples a step, over all workers together."""
    micro_batch_size: PositiveInt = 64
    """Samples that share one ε and one set of BatchNorm statistics (m of m-SAM): part of the objective, whatever
    the number of workers. Must divide the batch size."""
    optimizer: Optimizer = Optimizer()
    """The base optimizer."""
    perturbation: Annotated[SAM | ASAM | GSAM, Field(discriminator="name"), BeforeValidator(_plain_sam)] = SAM()
    """The variant of SAM; without a name, `sam`."""
    checkpoints: Annotated[int, Field(ge=2)] = 10
    """Checkpoints spread evenly over training, the initial and the final state among them."""
    precision: Literal["float32", "float64"] = "float32"
    """Type of parameters and arithmetic."""

    @model_validator(mode="after")
    def _micro_batches_fill_the_batch(self) -> Train:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} does not divide batch_size {self.batch_size}")
        return self


class Evaluation(Section):
    """How validation and test loss are measured, everywhere they are measured."""

    statistics: Literal["precise", "running"] = "precise"
    """BatchNorm statistics: recomputed from fixed training rows at the parameters in question, or the running ones."""
    statistics_rows: PositiveInt = 512
    """How many training rows give precise statistics."""
    batch_size: PositiveInt = 256
    """Rows a forward pass."""


class Replay(Section):
    """Exact influence by sweeping training backwards."""

    horizon: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of training to sweep, counted from its end."""
    memory_gib: Annotated[float, Field(gt=0)] = 2.0
    """Memory of each worker for the states of one segment; less means more of them are computed again."""
    tolerance: Annotated[float, Field(ge=0)] = 1e-3
    """Largest relative difference to a recorded checkpoint before replay is refused."""


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
    batch_size: PositiveInt = 128
    """Rows a scoring pass."""


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


class Report(Section):
    """What is ranked, flagged and shown."""

    rank_by: MethodName | Literal["auto"] = "auto"
    """The score that orders the report; `auto` is the one that agrees best with the run's own retrainings, or, without
    any, the one that can be expected to."""
    flagged: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Largest share of the training rows to flag; only samples whose removal is predicted to help are flagged."""
    gallery: PositiveInt = 60
    """Images shown in report.html."""


class MLflow(Section):
    """Where the audit is logged. Credentials come from MLflow's environment variables, never from here."""

    tracking_uri: str = "sqlite:///mlflow.db"
    """Tracking store or server."""
    experiment: str = "auditor"
    """Experiment name."""
    run_name: str | None = None
    """Name of the run; by default the name of the run folder."""


class Resources(Section):
    """What the audit runs on. None of these changes its result, so they may differ when a run is resumed."""

    train_workers: PositiveInt = 1
    """Training workers."""
    score_actors: PositiveInt = 1
    """Scoring actors."""
    cpus_per_worker: PositiveInt = 1
    """CPUs, and threads, of each worker and actor."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    """GPUs of each worker and actor."""
    retrainers: PositiveInt | None = None
    """Retrainings of a verification at a time; by default as many as the cluster has room for."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Worker failures after which training gives up."""
    wait_seconds: Annotated[float, Field(ge=0)] = 300
    """How long to wait for an existing cluster that is asked to grow, before the audit gives up."""
    ray_address: str | None = None
    """An existing cluster (`auto` or an address); by default the surrounding Ray job's, or a local one for this run."""


class Config(Section):
    """An audit."""

    run: str
    """The run folder: a local path or the URI of an object store."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seeds splits, label noise, initial weights, batch order, augmentation and dropout."""
    data: Data
    """Rows."""
    model: Model = Model()
    """Network."""
    train: Train = Train()
    """Training."""
    evaluation: Evaluation = Evaluation()
    """Evaluation."""
    replay: Replay = Replay()
    """Exact influence."""
    score: Score = Score()
    """Scoring."""
    verify: Verify = Verify()
    """Verification."""
    report: Report = Report()
    """Report."""
    mlflow: MLflow = MLflow()
    """Tracking."""
    resources: Resources = Resources()
    """Workers."""

    @model_validator(mode="after")
    def _ranks_by_a_scored_method(self) -> Config:
        if self.report.rank_by not in (AUTO, *self.score.methods):
            raise ValueError(f"report.rank_by is {self.report.rank_by}, which is not among score.methods")
        return self


RECORDED = ("versions", "revision")
"""Keys that config.yaml in a run folder holds beside the configuration."""


def load_config(path: str | Path, overrides: Sequence[str] = (), run: str | None = None) -> Config:
    """Read a YAML configuration.

    Args:
        path: The YAML file.
        overrides: `key.path=value` assignments, values in YAML, applied in order.
        run: Replaces the run folder.

    Returns:
        The validated configuration.

    Raises:
        InputError: The file is missing or not YAML, or a key is unknown or has an unusable value.
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
    return parse_config(raw, str(path))


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
        problems = "; ".join(_explain(problem) for problem in error.errors())
        raise InputError(f"{origin}: {problems}") from None


_FREE = (
    "run",
    "resources.",
    "mlflow.",
    "verify.",
    "report.",
    "data.cache_gib",
    "evaluation.batch_size",
    "score.batch_size",
    "replay.memory_gib",
)
"""Keys, and beginnings of keys, that may differ when a run folder is used again: where and with how much memory an
audit runs, where it is logged, and the report, which can be written again."""


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


_UNIONS = (("data", "source"), ("train", "perturbation"))
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
