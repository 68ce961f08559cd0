"""An audit and its stages: each finished once, each resumable, all of them one call."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from auditor.computation import Computation
from auditor.config import Config, load_config
from auditor.data import Dataset
from auditor.data import prepare as prepare_dataset
from auditor.data.dataset import DATASET_FILE
from auditor.errors import StageError
from auditor.initial_weights import check_weights, settle_weights
from auditor.model_check import check_model
from auditor.opening import open_run
from auditor.plan import Plan
from auditor.plan import plan as make_plan
from auditor.report import Summary, read_report
from auditor.report import report as write_report
from auditor.reuse import look_back
from auditor.sections.training import PREDECESSOR
from auditor.stages import Stages
from auditor.storage import RunFolder
from auditor.tracked import is_logged, log_also, log_edited, log_model
from auditor.trajectory import Manifest, TrajectoryReader

if TYPE_CHECKING:
    from auditor.distributed.hif_files import Hif
    from auditor.distributed.replay_files import Replay
    from auditor.fidelity import Fidelity
    from auditor.fidelity.edit import Edit
    from auditor.report.explanations import Explanations
    from auditor.review.check import Check
    from auditor.review.exported import Export
    from auditor.review.queue import Filled
    from auditor.review.review import Review

log = logging.getLogger("auditor")


class Audit:
    """One configuration and its run folder; a method for each command.

    What is complete in the folder is left as it is: a stage that is called again returns what it found before, and
    one that was interrupted goes on where it stopped.

    >>> Audit.from_yaml("docs/examples/digits.yaml").run()  # doctest: +SKIP

    Args:
        config: The audit.
        verbose: Show what Ray and its workers log.
    """

    def __init__(self, config: Config, verbose: bool = False) -> None:
        self.config = config
        self._verbose = verbose

    @classmethod
    def from_yaml(
        cls, path: str | Path, overrides: Sequence[str] = (), run: str | None = None, verbose: bool = False
    ) -> Audit:
        """An audit from its configuration file; see `load_config`.

        Raises:
            InputError: The file, a key or a value is unusable.
        """
        return cls(load_config(path, overrides, run), verbose)

    @cached_property
    def folder(self) -> RunFolder:
        """The run folder; the resolved configuration is written there when it is opened before data is prepared.

        Raises:
            InputError: The folder cannot be used, or belongs to another configuration; the difference is named.
        """
        return open_run(self.config)

    def plan(self) -> Plan:
        """What this audit will do and cost; nothing is written.

        Raises:
            InputError: The source or the model is unusable.
        """
        return make_plan(self.config)

    def run(self) -> Summary:
        """The whole audit: prepare, train, score, report, all of it logged to MLflow, and a queue for reviewers there.

        Raises:
            InputError: The configuration or its data is wrong, or the folder holds another audit.
            StageError: A stage could not end.
        """
        if is_logged(self.config, self.folder) and (self._queued or not self.config.review.queue):
            log.info("all of this audit is done; another one needs another run folder (--run)")
            return read_report(self.config, self.folder)
        self.prepare()
        from auditor.report.tracking import Tracking

        with ThreadPoolExecutor(1) as beside, ExitStack() as stack, ExitStack() as connection:
            # A new tracking store takes seconds to set up, and so does Ray.
            opening = beside.submit(Tracking, self.config, self.folder)
            try:
                if not self._computation.scored:
                    connection.enter_context(self._computation.ray())
            finally:
                # Entered whatever happened, so that the MLflow run is always closed.
                tracking = stack.enter_context(opening.result())
            tracking.log_parameters()
            tracking.log_dataset()
            look_back(self.config, self.folder)
            # One start of the workers for all that they compute.
            self._computation.on_workers("train", *self._computation.tasks)
            self._computation.score()
            if self.config.verify.during_run:
                self.verify()
            connection.close()
            summary = self.report()
            with self._stages.timed("track"):
                tracking.log_training()
                tracking.log_report(summary)
                log_model(self.config, self.folder, tracking)
            if self.config.review.queue:
                self._queue_or_say_why()
        return summary

    def _queue_or_say_why(self) -> None:
        """Scores, report and model stand; a server without review queues, or one that is away, takes none of it."""
        try:
            self.queue()
        except StageError as error:
            log.warning("no review queue: %s (the same command tries again; review.queue: 0 asks for none)", error)

    def prepare(self) -> Dataset:
        """Check the rows and take the snapshot that is audited, unless it is there already.

        Raises:
            InputError: Too many rows are unusable, or the model or its given weights do not fit them.
        """
        if self.folder.exists(DATASET_FILE):
            dataset = Dataset.load(self.folder)
            check_model(self.config, dataset.input_shape, len(dataset.class_names))
        else:
            with self._stages.timed("prepare"):
                dataset = prepare_dataset(self.config, self.folder, partial(_check, self.config))
        if self.config.model.weights != PREDECESSOR:  # that one may be known later only
            settle_weights(self.config, self.folder)
        counts = ", ".join(f"{facts.rows:,} {split}" for split, facts in dataset.splits.items())
        aside = len(dataset.quarantine.rows)
        log.info("data: %s rows of %d classes, %d set aside", counts, len(dataset.class_names), aside)
        for warning in dataset.warnings:
            log.warning("data: %s", warning)
        return dataset

    def train(self) -> Manifest:
        """Train with SAM on Ray, from the last complete checkpoint if there is one; the snapshot is taken if need be.

        Raises:
            InputError: See `prepare`.
            StageError: The loss was not finite, or workers died too often.
        """
        if not self.folder.exists(DATASET_FILE):
            self.prepare()
        self._computation.on_workers("train")
        return self._computation.manifest

    def replay(self) -> Replay:
        """Exact influence: sweep the recorded training backwards on Ray, unless that is done already.

        Raises:
            InputError: The model cannot be replayed as it is evaluated.
            StageError: Training has not ended, or replay drifted from the recorded checkpoints.
        """
        from auditor.distributed.replay_files import Replay

        TrajectoryReader(self.folder)
        self._computation.on_workers("replay")
        return Replay.read(self.folder)

    def hif(self) -> Hif:
        """Influence by a linear solve at the end of training, on Ray, unless that is done already.

        Raises:
            InputError: `score.methods` names no such method, or the model's evaluation cannot be differentiated.
            StageError: Training has not ended, or a solve gave no sound number.
        """
        from auditor.distributed.hif_files import Hif

        TrajectoryReader(self.folder)
        self._computation.on_workers("hif")
        return Hif.read(self.folder)

    def score(self) -> int:
        """Score every training sample on Ray, unless that is done already; returns how many samples there are.

        Raises:
            InputError: A method that is asked for cannot be computed.
            StageError: Training has not ended, or a score is not finite.
        """
        TrajectoryReader(self.folder)
        with self._computation.ray_to_score():
            if not self._computation.scored:
                self._computation.on_workers(*self._computation.tasks)
            return self._computation.score()

    def verify(self) -> Fidelity:
        """Train again without chosen samples and judge every method by it; retrainings that are done are kept.

        Raises:
            StageError: Training has not ended, scores are missing, or retraining gave up.
        """
        from auditor.fidelity.verification import planned, verified

        with self._computation.ray_to_score():
            if not self._computation.scored:
                self.score()
            removals = planned(self.config, self.folder)
            self._computation.retrain(removals, "verify")
        found = verified(self.folder, removals)
        log.info("verify: %d retrainings without chosen samples", len(removals) - 1)
        return found

    def explain(self) -> Explanations:
        """Name the training samples behind misclassified validation images, unless that is done already.

        The page is written again in any case; where the audit stands in MLflow, it is logged there.

        Raises:
            StageError: Training has not ended, or `explain.method` cannot explain this model.
        """
        from auditor.distributed.explain import explain_on_ray, is_explained
        from auditor.report.explanations import write_explanations

        TrajectoryReader(self.folder)
        if not is_explained(self.config, self.folder):
            with self._computation.ray(), self._stages.timed("explain"):
                explain_on_ray(self.config, self.folder)
        found = write_explanations(self.config, self.folder)
        log_also(self.config, self.folder, "explain", {"explain": {"lds": found.lds}}, "explain")
        return found

    def edit(self, sample_ids: Sequence[str] | None = None) -> Edit:
        """Weights without some samples, unless they are there already, and what they do; see `Config.edit`.

        Where the audit stands in MLflow, they become versions of a registered model there.

        Args:
            sample_ids: Samples to leave out, in place of those of `edit.remove`.

        Raises:
            InputError: There is no such sample, or nothing to leave out.
            StageError: Training has not ended, scores are missing, or a method gave no sound weights.
        """
        from auditor.fidelity.edit import judge_edit
        from auditor.fidelity.edit_files import ask
        from auditor.review.left_out import left_out

        TrajectoryReader(self.folder)
        removal = left_out(self.config, self.folder, sample_ids)
        asked = ask(self.config, self.folder, removal)
        self._computation.on_workers("edit")
        found = judge_edit(self.folder, asked)
        for warning in found.warnings():
            log.warning("edit: %s", warning)
        log_edited(self.config, self.folder, found, asked)
        return found

    def report(self) -> Summary:
        """Rank the scored samples and write report/, over an earlier one.

        The verdicts of the audit before this one are carried over, and what changed since is said.

        Raises:
            InputError: `review.predecessor` is unusable.
            StageError: Scores are missing or do not fit the dataset.
        """
        from auditor.review.comparison import changes_since
        from auditor.review.predecessor import carry_over, earlier_verdicts, predecessor

        if not self._computation.scored:
            raise StageError(f"{self.folder}: holds no scores; score first")
        with self._stages.timed("report"):
            before = predecessor(self.config, self.folder)
            if before is None:
                return write_report(self.config, self.folder)
            earlier = earlier_verdicts(self.config, before)
            carry_over(self.folder, earlier)
            return write_report(self.config, self.folder, partial(changes_since, before, earlier))

    def queue(self) -> Filled:
        """Put the flagged samples that nobody has decided on into a review queue in MLflow, each once.

        Raises:
            InputError: `review.predecessor` is unusable, or the tracking store cannot be opened.
            StageError: The audit is not in the tracking store, or MLflow went away; another call goes on from there.
        """
        from auditor.review.queue import fill_queue

        with self._stages.timed("queue"):
            filled = fill_queue(self.config, self.folder)
        settled = f"; {filled.settled} were decided before" if filled.settled else ""
        where = f", {filled.page}" if filled.page else ""
        log.info("queue: %d samples in MLflow's review queue %r%s%s", filled.items, filled.name, where, settled)
        return filled

    def review(self, csv: str | Path | None = None) -> Review:
        """Read verdicts back from MLflow, and from a CSV file, and log where the review stands.

        Raises:
            InputError: The CSV, `review.predecessor` or the tracking store is unusable.
            StageError: The audit has no report or is not in the tracking store, or MLflow went away.
        """
        from auditor.review.review import review

        return review(self.config, self.folder, csv)

    def export(self, to: str | None) -> Export:
        """Write the audited rows with the verdicts applied, and log where they came from.

        Args:
            to: Folder to write to; None counts and writes nothing.

        Raises:
            InputError: There is no verdict to apply, or the folder holds anything else than an export.
            StageError: The audit has no report or is not in the tracking store, or MLflow went away.
        """
        from auditor.review.export import export

        return export(self.config, self.folder, to)

    def check(self) -> Check:
        """Train again with the reviewers' verdicts, and compare with what was predicted; what is done is kept.

        Where the audit stands in MLflow, the outcome is logged there.

        Raises:
            InputError: No verdict removes or relabels a sample.
            StageError: The audit has no report, or retraining gave up.
        """
        from auditor.review.check import checked, planned_check

        removals = planned_check(self.folder)
        self._computation.retrain(removals, "check")
        found = checked(self.folder, removals)
        log_also(self.config, self.folder, "check", {"check": found.to_json()})
        return found

    @property
    def _stages(self) -> Stages:
        return Stages(self.folder)

    @property
    def _computation(self) -> Computation:
        return Computation(self.config, self.folder, self._verbose)

    @property
    def _queued(self) -> bool:
        """Whether the review queue was filled to its end."""
        return "queue" in self._stages


def _check(config: Config, input_shape: tuple[int, ...], class_names: tuple[str, ...]) -> None:
    check_model(config, input_shape, len(class_names))
    check_weights(config, input_shape, class_names)
