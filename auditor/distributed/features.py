"""What the last layer reads of every training and validation sample, as a task of the workers.

features/<split>/part-<rank>.parquet   row, features
features/head.parquet                  the last layer: bias and weight of each class
features/features.json                 the layer's name, and whether it is trained; written last
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from auditor.config import Config
from auditor.data import SplitName
from auditor.distributed.division import share_of
from auditor.distributed.task import Task
from auditor.distributed.trained_run import TrainedRun
from auditor.influence.head import FeatureReader, find_head
from auditor.storage import FORMAT_VERSION, RunFolder
from auditor.trajectory import group

FEATURES = "features"
FEATURES_FILE = f"{FEATURES}/features.json"
SPLITS: tuple[SplitName, ...] = ("train", "validation")
_ASIDE = f".{FEATURES}"


def write_features(config: Config, run: RunFolder, device: torch.device, progress: Callable[[int], None]) -> None:
    """Read the features of every training and validation sample at the end of training.

    A model without a linear layer at its end leaves nothing but that fact. Collective.

    Args:
        config: The audit.
        run: Its run folder, training complete.
        device: This worker's device.
        progress: Told the number of samples read, on the first rank.

    Raises:
        StageError: Training has not ended.
    """
    trained = TrainedRun(config, run, device)
    model = trained.model()
    inputs, _ = next(iter(trained.chunks("validation")))
    head = find_head(model, inputs[:2])
    if group.rank() == 0:
        run.remove(_ASIDE)
        for split in SPLITS:
            run.make(f"{_ASIDE}/{split}")
    group.barrier()
    if head is not None:
        read = FeatureReader(model, head)
        done = 0
        for split in SPLITS:
            done += _write_split(trained, split, read, partial(_told, progress, done))
    group.barrier()
    if group.rank() == 0:
        if head is not None:
            run.write_table(f"{_ASIDE}/head.parquet", _layer(model.get_submodule(head)))
        trained_too = head is not None and _is_trained(model, head)
        run.write_json(f"{_ASIDE}/features.json", {"head": head, "trained": trained_too})
        run.replace(_ASIDE, FEATURES)


def _write_split(trained: TrainedRun, split: SplitName, read: FeatureReader, progress: Callable[[int], None]) -> int:
    """This worker's share of the rows; returns how many they are."""
    mine = share_of(trained.dataset.splits[split].rows, group.rank(), group.world_size())
    path = trained.run.full(f"{_ASIDE}/{split}/part-{group.rank():05d}.parquet")
    writer: pq.ParquetWriter | None = None
    first = mine.start
    for inputs, _ in trained.chunks(split, np.arange(mine.start, mine.stop)):
        found = read(trained.network.quick(inputs)).flatten(1).float().cpu().numpy()
        table = pa.table(
            {
                "row": pa.array(np.arange(first, first + len(found)), pa.int32()),
                "features": pa.FixedSizeListArray.from_arrays(pa.array(found.ravel()), found.shape[1]),
            },
            metadata={b"auditor.format_version": str(FORMAT_VERSION).encode()},
        )
        writer = writer or pq.ParquetWriter(path, table.schema, filesystem=trained.run.filesystem, compression="zstd")
        writer.write_table(table)
        first += len(found)
        if group.rank() == 0:
            progress(first - mine.start)
    if writer is not None:
        writer.close()
    return len(mine)


def _is_trained(model: nn.Module, head: str) -> bool:
    return all(value.requires_grad for value in model.get_submodule(head).parameters())


def _layer(layer: nn.Module) -> pa.Table:
    parameters = {name: value.detach().double().cpu().numpy() for name, value in layer.named_parameters()}
    weight = parameters["weight"]
    bias = parameters.get("bias", np.zeros(len(weight)))
    return pa.table({"bias": bias, "weight": pa.FixedSizeListArray.from_arrays(weight.ravel(), weight.shape[1])})


def _told(progress: Callable[[int], None], before: int, rows: int) -> None:
    """All workers read at about the pace of the first."""
    progress(group.world_size() * (before + rows))


def _work(config: Config, run: RunFolder, device: torch.device, progress: Callable[[int], None]) -> str | None:
    write_features(config, run, device, progress)
    return None


def _extent(config: Config, run: RunFolder) -> tuple[int, int]:
    del config
    splits = run.read_json("dataset.json")["splits"]
    return 0, sum(splits[split]["rows"] for split in SPLITS)


READ_FEATURES = Task(_work, _extent, lambda run: run.exists(FEATURES_FILE), unit="samples")
"""Leaves the features of every training and validation sample in features/."""
