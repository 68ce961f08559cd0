"""Where an export came from, in MLflow: a run below the audit's, from the audited rows to the cleaned ones."""

from __future__ import annotations

import json
import time

from auditor.config import Config
from auditor.report.lineage import dataset_inputs
from auditor.report.masking import mask
from auditor.report.provenance import run_name
from auditor.report.tracking_store import clip, connect, explained
from auditor.review.exported import Export
from auditor.storage import RunFolder

_DIGEST_LENGTH = 36


def log_export(config: Config, run: RunFolder, done: Export) -> str:
    """Log an export.

    Args:
        config: The audit.
        run: Its folder, logged to MLflow.
        done: What was written.

    Returns:
        Id of the export's own MLflow run.

    Raises:
        StageError: MLflow does not answer; the export itself is complete.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric

    uri = config.mlflow.tracking_uri
    client = connect(uri)
    logged = run.read_json("mlflow.json")
    audit, folder = str(logged["run_id"]), str(done.folder)
    now = int(1000 * time.time())
    counts = {"removed": done.removed, "relabelled": done.relabelled, "kept": done.kept, "rows": done.rows["train"]}
    written = Dataset(
        name=clip(f"{run_name(config)}, cleaned", 500),
        digest=str(done.fingerprint)[:_DIGEST_LENGTH],
        source_type="local",
        source=json.dumps({"uri": folder}),
    )
    with explained(uri):
        tags = {"auditor.audit_run": audit, "auditor.export": folder, "mlflow.parentRunId": audit}
        name = f"{run_name(config)}-export"
        made = client.create_run(str(logged["experiment_id"]), tags=tags, run_name=name).info.run_id
        inputs = dataset_inputs(config, run, run.read_json("dataset.json"))[:1]
        inputs.append(DatasetInput(written, [InputTag("mlflow.data.context", "export")]))
        client.log_inputs(made, inputs)
        client.log_batch(made, metrics=[Metric(f"export.{key}", value, now, 0) for key, value in counts.items()])
        client.set_tag(audit, "auditor.exported_to", clip(mask(folder), 500))
        client.set_terminated(made, "FINISHED")
    return str(made)
