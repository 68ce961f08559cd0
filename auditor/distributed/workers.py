"""Ray Train runs one function on many workers as a process group, and starts it again when one of them dies."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from auditor.config import Config
from auditor.distributed.cluster import worker_resources
from auditor.distributed.worker import PROGRESS_FILE
from auditor.errors import StageError
from auditor.progress import Progress, Watch
from auditor.storage import RunFolder

_SCRATCH = ".ray-train"


def run_on_workers(
    config: Config,
    run: RunFolder,
    function: Callable[[dict[str, Any]], str | None],
    label: str,
    steps: int,
    done: int,
    unit: str = "steps",
) -> None:
    """Run a function of `auditor.distributed.worker` on all workers, showing how far the first one is.

    Args:
        config: The audit.
        run: Its run folder.
        function: Returns None, or why it could not go on; a worker that dies makes all start the function again.
        label: Name of the stage.
        steps: Steps of the whole work.
        done: Steps done before.
        unit: What the steps are called.

    Raises:
        StageError: The function gave a reason, or workers died more often than `resources.max_failures`.
    """
    resources = config.resources
    # Ray Train looks at its workers every 2 s by default, which a short training notices.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    trainer = TorchTrainer(
        function,
        train_loop_config={"config": config.model_dump(mode="json"), "run": run.uri},
        torch_config=TorchConfig(backend="nccl" if resources.gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=resources.train_workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=worker_resources(resources),
        ),
        run_config=RunConfig(
            # Recovery is the run folder's: a name of its own for each attempt keeps Ray from resuming a dead one.
            name=uuid.uuid4().hex,
            storage_path=run.full(_SCRATCH),
            storage_filesystem=None if run.local else run.filesystem,
            failure_config=FailureConfig(max_failures=resources.max_failures),
        ),
    )

    def reached() -> int:
        return int(run.read_json(PROGRESS_FILE)["step"])

    try:
        with Watch(Progress(label, steps, unit, done), reached, 0.5 if run.local else 10.0):
            result = trainer.fit()
    except Exception as error:
        raise StageError(f"{label} gave up: {_reason(error)}") from error
    finally:
        run.remove(_SCRATCH)
        run.remove(PROGRESS_FILE)
    if result.return_value is not None:
        raise StageError(str(result.return_value))


def _reason(error: BaseException) -> str:
    """The last line of the innermost error: the sentence a person needs."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
