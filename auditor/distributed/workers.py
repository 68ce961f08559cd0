"""Ray Train runs tasks on many workers as a process group, and starts them again when one of them dies."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from auditor.config import Config
from auditor.distributed.journal import JOURNAL, Board, look_interval
from auditor.distributed.room import worker_resources
from auditor.distributed.tasks import TASKS, unfinished
from auditor.distributed.worker import work
from auditor.errors import StageError
from auditor.progress import Watch
from auditor.storage import RunFolder

_SCRATCH = ".ray-train"
T = TypeVar("T")


def run_on_workers(
    config: Config,
    run: RunFolder,
    tasks: Sequence[str],
    ended: Callable[[str, float], None] = lambda *_: None,
) -> None:
    """Let the workers of the connected Ray cluster compute tasks, one after another in the same processes.

    What is finished is left alone; what was interrupted goes on where it was.

    Args:
        config: The audit.
        run: Its run folder, dataset prepared.
        tasks: Of `auditor.distributed.tasks.TASKS`.
        ended: Told the name and the seconds of each task, as soon as it has ended well.

    Raises:
        InputError: A task would go wrong.
        StageError: A task cannot have a result, workers died more often than `resources.max_failures`, or training
            has not ended and is not among the tasks.
    """
    missing = unfinished(config, run, tasks)
    if not missing:
        return
    resources = config.resources
    # Ray Train looks at its workers every 2 s by default, which a short training notices.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    trainer = TorchTrainer(
        work,
        train_loop_config={"config": config.model_dump(mode="json"), "run": run.uri, "tasks": missing},
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
    run.remove(JOURNAL)  # of a command that was killed
    with Board(run, ended) as board:
        try:
            with Watch(board.look, look_interval(run)):
                result = _aside(trainer.fit)
        except Exception as error:
            raise StageError(f"{board.task or missing[0]} gave up: {_reason(error)}") from error
        finally:
            run.remove(_SCRATCH)
            run.remove(JOURNAL)
    if result.return_value is not None:
        raise StageError(str(result.return_value))
    if left := [task for task in missing if not TASKS[task].finished(run)]:
        raise StageError(f"{run}: the workers ended without a result of {' and '.join(left)}")


def _aside(function: Callable[[], T]) -> T:
    """Call a function in a thread of its own, so that this one stays awake to signals.

    In the main thread, Ray Train (2.60) would answer Ctrl-C itself, and end the process with exit code 0.
    """
    done: Future[T] = Future()

    def call() -> None:
        try:
            done.set_result(function())
        except BaseException as error:
            done.set_exception(error)

    # A daemon: when this thread is told to stop, nothing waits for the other; the cluster ends its work.
    threading.Thread(target=call, daemon=True).start()
    return done.result()


def _reason(error: BaseException) -> str:
    """The last line of the innermost error: the sentence a person needs."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
