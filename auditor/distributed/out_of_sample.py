"""Confidence in every label by models that were not trained on it: K masked retrainings on a pool of Ray actors.

The training rows are dealt into K folds. The recorded training is run again without one fold after another (see
`auditor.distributed.retraining`), and each model says how probable the given labels of its own fold are. This is what
confident learning looks at (Northcutt et al. 2021).

out_of_sample/folds/<hash of the rows>.parquet   row, probability: one file a fold, as soon as it is there
out_of_sample/influence.parquet                  all rows; written last
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from auditor import counters
from auditor.config import Config
from auditor.distributed.retrain import over_retrainers
from auditor.distributed.row_scores import write_row_scores
from auditor.errors import StageError
from auditor.fidelity import Removal
from auditor.storage import RunFolder

OUT_OF_SAMPLE = "out_of_sample"
OUT_OF_SAMPLE_FILE = f"{OUT_OF_SAMPLE}/influence.parquet"


def folds(labels: NDArray[np.integer], count: int, seed: int) -> list[Removal]:
    """Deal the training rows into parts, every class as evenly as it goes.

    Args:
        labels: [rows], as audited.
        count: How many parts; fewer where there are fewer rows.
        seed: Of the audit.

    Returns:
        Parts that no two share a row of, and that hold all rows together.
    """
    drawn = counters.permutation("folds", len(labels), seed)
    dealt = drawn[np.argsort(labels[drawn], kind="stable")]
    parts = [np.sort(dealt[place::count]) for place in range(min(count, len(labels)))]
    return [Removal("fold", tuple(part.tolist()), len(part) / len(labels)) for part in parts]


def out_of_sample_on_ray(config: Config, run: RunFolder) -> None:
    """Retrain without each fold on the connected Ray cluster; folds that are done are left alone.

    Args:
        config: The audit.
        run: Its run folder, training complete.

    Raises:
        StageError: Actors died more often than `resources.max_failures`, or a retraining left no sound number.
    """
    labels = np.asarray(run.read_table("dataset/train", columns=["label"])["label"], dtype=np.int64)
    planned = folds(labels, config.score.folds, config.seed)
    if missing := [fold for fold in planned if not run.exists(_file(fold))]:

        def keep(fold: Removal, probabilities: NDArray[np.float64]) -> None:
            if not np.isfinite(probabilities).all():
                raise StageError(
                    f"out_of_sample: a training without {len(fold.rows):,} of the samples ends in numbers that are "
                    "not finite"
                )
            rows = pa.array(fold.rows, pa.int32())
            run.write_table(_file(fold), pa.table({"row": rows, "probability": probabilities}))

        over_retrainers(config, run, missing, "confidence", keep, OUT_OF_SAMPLE, len(planned))
    found = np.full(len(labels), np.nan)
    for fold in planned:
        table = run.read_table(_file(fold))
        found[table["row"].to_numpy()] = table["probability"].to_numpy()
    write_row_scores(run, OUT_OF_SAMPLE, {OUT_OF_SAMPLE: found})


def _file(fold: Removal) -> str:
    return f"{OUT_OF_SAMPLE}/folds/{fold.key}.parquet"
