"""An audit in MLflow: parameters, lineage, curves, metrics, files and the model, under one run per run folder."""

from __future__ import annotations

import getpass
import logging
import time
from importlib import metadata
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from auditor.config import Config
from auditor.report import logged_model, tracking_store
from auditor.report.additions import upload
from auditor.report.curves import training_curves
from auditor.report.lineage import dataset_inputs
from auditor.report.masking import mask
from auditor.report.note import note
from auditor.report.provenance import revision, run_name, settings
from auditor.report.summary import Summary
from auditor.report.tracking_store import METRICS_A_CALL, PARAMETERS_A_CALL, clip, legal_name
from auditor.storage import RunFolder

if TYPE_CHECKING:
    import torch

_FAILURE = "auditor.failure"

log = logging.getLogger(__name__)


class Tracking:
    """The MLflow run of a run folder, found again through `mlflow.json`.

    As a context manager it ends the run: FINISHED, or with the reason FAILED when the block raises an error and KILLED
    when somebody ended it.
    Everything can be logged again after a resume: nothing is doubled.

    Args:
        config: The audit.
        run: Its folder. Where config.yaml is already there, its git revision becomes a tag.

    Raises:
        InputError: The tracking store cannot be opened, or the experiment was deleted in it.
    """

    def __init__(self, config: Config, run: RunFolder) -> None:
        self._config, self._folder = config, run
        self._summary: Summary | None = None
        self._client = tracking_store.connect(config.mlflow.tracking_uri)
        self.experiment_id = tracking_store.experiment(self._client, config.mlflow.experiment)
        self.run_id = self._reopened() or self._created()
        address = {"tracking_uri": mask(config.mlflow.tracking_uri), "experiment_id": self.experiment_id}
        run.write_json("mlflow.json", {**address, "run_id": self.run_id})

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run with its status; an error while an exception is on its way is only logged."""
        try:
            if error is None:
                self._client.set_terminated(self.run_id, "FINISHED")
            else:
                reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":")
                self._client.set_tag(self.run_id, _FAILURE, clip(mask(reason), 500))
                self._client.set_terminated(self.run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
        except Exception:
            if error is None:
                raise
            log.exception("MLflow run %s could not be closed", self.run_id)

    @property
    def page(self) -> str | None:
        """Address of the run in a tracking server's interface; None without a server."""
        uri = self._config.mlflow.tracking_uri.rstrip("/")
        if not uri.startswith(("http://", "https://")):
            return None
        return f"{mask(uri)}/#/experiments/{self.experiment_id}/runs/{self.run_id}"

    def log_parameters(self) -> None:
        """Log every setting; one that was logged with another value before (resources may change) becomes a tag."""
        from mlflow.entities import Param

        known = self._client.get_run(self.run_id).data.params
        wanted = {
            legal_name(key): clip(value, tracking_store.PARAMETER_LENGTH)
            for key, value in settings(self._config).items()
        }
        new = [Param(key, value) for key, value in wanted.items() if key not in known]
        for start in range(0, len(new), PARAMETERS_A_CALL):
            self._client.log_batch(self.run_id, params=new[start : start + PARAMETERS_A_CALL])
        changed = [f"{key}: {known[key]} → {value}" for key, value in wanted.items() if known.get(key, value) != value]
        if changed:
            self._client.set_tag(self.run_id, "auditor.changed_on_resume", clip("; ".join(changed), 1000))

    def log_dataset(self) -> None:
        """Log where the training and validation rows came from, how many they are, and their fingerprint."""
        described = self._folder.read_json("dataset.json")
        self._client.log_inputs(self.run_id, dataset_inputs(self._config, self._folder, described))

    def log_training(self) -> None:
        """Log the curves of the recorded training, at most 500 points a curve, and where given weights came from."""
        from mlflow.entities import Metric

        from auditor.trajectory.initial import read_initial

        initial = read_initial(self._folder)
        if initial is not None:
            self._client.set_tag(self.run_id, "auditor.initial_weights", clip("; ".join(initial.sentences), 1000))
        training = training_curves(self._folder)
        began = self._client.get_run(self.run_id).info.start_time
        # A point's time follows from its step, so a second logging writes the same points, which the store keeps once.
        pace = 1000 * training.seconds / max(training.steps, 1)
        self._log_metrics(
            [
                Metric(f"curves/{name}", float(value), int(began + pace * step), int(step))
                for name, (steps, values) in training.curves.items()
                for step, value in zip(steps, values, strict=True)
                if np.isfinite(value)
            ]
        )

    def log_model(self, model: torch.nn.Module, example_input: torch.Tensor, checkpoint_uri: str) -> str:
        """Log the audited model as an exported program, which loads without its class and without pickle.

        A model that torch.export cannot trace is logged by its checkpoint's address alone.

        Args:
            model: The model in the state that was audited.
            example_input: One or more inputs, [b, ...].
            checkpoint_uri: Path or URI of the sharded checkpoint of the same state.

        Returns:
            The model's MLflow URI, for `mlflow.pytorch.load_model`.
        """
        name = logged_model.AUDITED
        logged = logged_model.log_model(self._client, self.run_id, name, model, example_input, checkpoint_uri)
        self._write_note()
        return f"models:/{logged.model_id}"

    def log_report(self, summary: Summary) -> None:
        """Log the metrics, the files of the report, the configuration, and a note that says what to open first."""
        from mlflow.entities import Metric

        steps = int(self._folder.read_json("trajectory/manifest.json")["steps"])
        now = int(1000 * time.time())
        known = self._client.get_run(self.run_id).data.metrics
        metrics = tracking_store.flat_metrics(summary.to_json())
        changed = {name: value for name, value in metrics.items() if known.get(name) != value}
        self._log_metrics([Metric(name, value, now, steps) for name, value in changed.items()])
        upload(self._client, self.run_id, self._folder, "report")
        if self._folder.exists("config.yaml"):
            self._client.log_text(self.run_id, mask(self._folder.read_bytes("config.yaml").decode()), "config.yaml")
        self._summary = summary
        self._write_note()

    def _write_note(self) -> None:
        if self._summary is None:
            return
        known = logged_model.logged_models(self._client, self.run_id)
        audited = [model for model in known if model.name == logged_model.AUDITED]
        loadable = [model.model_id for model in audited if logged_model.EXTERNAL not in model.tags]
        page = f"#/experiments/{self.experiment_id}/runs/{self.run_id}/artifacts/report.html"
        text = note(self._summary, page, f"models:/{loadable[-1]}" if loadable else None)
        self._client.set_tag(self.run_id, "mlflow.note.content", text)

    def _log_metrics(self, metrics: list[Any]) -> None:
        for start in range(0, len(metrics), METRICS_A_CALL):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + METRICS_A_CALL])

    def _reopened(self) -> str | None:
        from mlflow.exceptions import MlflowException

        if not self._folder.exists("mlflow.json"):
            return None
        known = self._folder.read_json("mlflow.json")
        here = {"tracking_uri": mask(self._config.mlflow.tracking_uri), "experiment_id": self.experiment_id}
        if any(known.get(key) != value for key, value in here.items()):
            return None
        try:
            found = self._client.get_run(known["run_id"])
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        if found.info.lifecycle_stage != "active":
            return None
        self._client.update_run(found.info.run_id, status="RUNNING", name=run_name(self._config))
        if _FAILURE in found.data.tags:
            self._client.delete_tag(found.info.run_id, _FAILURE)
        return str(found.info.run_id)

    def _created(self) -> str:
        tags = {"auditor.run_folder": mask(self._folder.uri), "auditor.version": metadata.version("auditor")}
        tags |= {"mlflow.user": getpass.getuser(), "mlflow.source.name": "auditor", "mlflow.source.type": "LOCAL"}
        commit = revision(self._folder)
        if commit:
            tags |= {"auditor.git_revision": commit, "mlflow.source.git.commit": commit}
        run = self._client.create_run(self.experiment_id, tags=tags, run_name=run_name(self._config))
        return str(run.info.run_id)
