"""The training rows as a stream of blocks through a pool of actors, and what every such actor does with a block."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy, DataContext
from ray.data.expressions import col
from torch import Tensor

from auditor.config import Config, parse_config
from auditor.data import Dataset, inputs_of_batch
from auditor.distributed.computing import set_up
from auditor.distributed.loop import new_model
from auditor.distributed.remarks import remark
from auditor.distributed.room import threads_alone, worker_resources
from auditor.errors import StageError
from auditor.precision import dtype_of
from auditor.sam import Network
from auditor.storage import RunFolder

T = TypeVar("T")

_OURS = f"{StageError.__module__}.{StageError.__qualname__}: "


class RowReader:
    """What an actor keeps to read training rows: the network and the device they go to.

    Args:
        settings: The configuration, as plain values.
        uri: The run folder.
    """

    def __init__(self, settings: dict[str, Any], uri: str) -> None:
        self.config = parse_config(settings)
        set_up(self.config.resources.cpus_per_worker)
        self.device = device_of(self.config)
        self.run = RunFolder(uri)
        self.rows = self.config.score.batch_size
        """Rows at a time that memory has had room for so far."""
        self._dataset = Dataset.load(self.run)
        self.network = Network(new_model(self.config, self._dataset).to(self.device))

    def tensors(self, batch: pa.Table) -> tuple[Tensor, Tensor]:
        """Inputs [m, ...], not augmented, and labels [m] of a batch, on the device."""
        inputs = inputs_of_batch(batch[_inputs_column(self._dataset)], self._dataset, dtype_of(self.config))
        labels = torch.as_tensor(batch["label"].to_numpy().astype(np.int64), device=self.device)
        return inputs.to(self.device), labels

    def in_parts(self, table: pa.Table, work: Callable[[pa.Table], T]) -> Iterator[T]:
        """What some work makes of a table, a batch at a time; where memory runs out, batches are halved from there on.

        Args:
            table: Training rows.
            work: Done on each part; again, in halves, where it runs out of an accelerator's memory.

        Raises:
            StageError: Memory has no room for a single row.
        """
        first = 0
        while first < len(table):
            part = table.slice(first, self.rows)
            try:
                found = work(part)
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise StageError("the device has no memory for a single sample") from None
                self.rows = len(part) // 2
                torch.cuda.empty_cache()
                remark(self.run, f"memory had no room for {len(part)} samples at a time; it went on with {self.rows}")
            else:
                first += len(part)
                yield found


def over_rows(
    config: Config,
    run: RunFolder,
    dataset: Dataset,
    actor: type,
    prepared: ray.ObjectRef,
    batch_size: int | None,
    only: Sequence[int] | None = None,
) -> ray.data.Dataset:
    """The training snapshot (row, sample_id, image or features, label) through a pool of actors.

    Args:
        config: The audit.
        run: Its run folder.
        dataset: The prepared dataset.
        actor: A class that is made of (settings, uri, prepared) and called with tables.
        prepared: Reference of what all actors need.
        batch_size: Rows a table; None for whole blocks.
        only: Which rows; all by default.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False  # ours is shown
    # The newer reader lists, plans and reads in processes of their own: 6 s more before the first row (Ray 2.60).
    context.use_datasource_v2 = False
    rows, actors = dataset.splits["train"].rows, config.resources.score_actors
    block = int(np.clip(-(-rows // (4 * actors)), config.score.batch_size, 8192))
    stream = ray.data.read_parquet(
        run.full("dataset/train"),
        filesystem=run.filesystem,
        columns=["row", "sample_id", _inputs_column(dataset), "label"],
        num_cpus=1,
    )
    if only is not None:
        stream = stream.filter(expr=col("row").is_in(list(only)))
    return stream.repartition(target_num_rows_per_block=block).map_batches(
        actor,
        fn_constructor_args=(config.model_dump(mode="json"), run.uri, prepared),
        batch_format="pyarrow",
        batch_size=batch_size,
        compute=ActorPoolStrategy(size=actors),
        **reserved(config),
    )


def device_of(config: Config) -> torch.device:
    """Where an actor computes."""
    return torch.device("cuda" if config.resources.gpus_per_worker else "cpu")


def set_up_before(config: Config) -> None:
    """Set this process up for what is computed in it before the actors start: their CPUs are idle until then."""
    here = ray.get_runtime_context().get_node_id()
    counted = sum(node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["NodeID"] == here)
    # Ray counts what it was told, which can be more than there is.
    set_up(threads_alone(config.resources, int(min(counted, os.cpu_count() or 1))))


def reserved(config: Config) -> dict[str, Any]:
    """Resources of one actor, in Ray's words."""
    asked, custom = worker_resources(config.resources), config.resources.custom
    return {"num_cpus": asked["CPU"], "num_gpus": asked.get("GPU"), **({"resources": custom} if custom else {})}


def cause(error: BaseException) -> str:
    """The sentence of the innermost error."""
    wrapper = ray.exceptions.UserCodeException
    while isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, Exception):
        if isinstance(error.cause, wrapper):
            break  # Ray Data's own; what it wraps is in the text of the error around it
        error = error.cause
    innermost = str(error).partition("The above exception was the direct cause")[0]
    lines = [line for line in innermost.strip().splitlines() if line.strip()]
    return lines[-1].strip().removeprefix(_OURS) if lines else type(error).__name__


def _inputs_column(dataset: Dataset) -> str:
    return "image" if dataset.is_image else "features"
