"""Small run folders with everything that the report reads, made without training anything."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from numpy.typing import NDArray
from PIL import Image

from auditor.config import Config, parse_config
from auditor.fidelity import Fidelity
from auditor.fidelity.verification import planned, result_file, verified
from auditor.storage import RunFolder

EPOCHS, STEPS_PER_EPOCH = 4, 5


@dataclass
class Audit:
    """What a run folder holds; a test changes a field and writes it."""

    rows: int = 40
    class_names: Sequence[str] = ("zero", "one", "two", "three")
    seed: int = 0
    wrong_share: float = 0.2
    truth: bool = True
    images: Sequence[bytes | None] | None = None
    paths: Sequence[str | None] | None = None
    features: NDArray[np.float32] | None = None
    sample_ids: Sequence[str] | None = None
    carried: Mapping[str, pa.Array] = field(default_factory=dict)
    methods: Sequence[str] = ("gif", "loss", "margin", "aum")
    variants: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    rank_by: str = "gif"
    flagged: float = 0.2
    gallery: int = 8
    tracking_uri: str = "sqlite:///mlflow.db"
    quarantine: Sequence[Mapping[str, Any]] = ()
    query: str = "validation loss"

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        count, classes = self.rows, len(self.class_names)
        if self.sample_ids is None:
            self.sample_ids = [f"sample-{row:05d}" for row in range(count)]
        self.true = random.integers(0, classes, count).astype(np.int32)
        self.wrong = random.random(count) < self.wrong_share
        shift = random.integers(1, classes, count)
        self.label = np.where(self.wrong, (self.true + shift) % classes, self.true).astype(np.int32)
        noise = random.normal(size=count)
        margin = np.where(self.wrong, -2.0, 3.0) + 1.5 * noise
        confident = np.where(random.random(count) < 0.9, self.true, (self.true + 1) % classes)
        self.scores: dict[str, NDArray[Any]] = {
            "gif": np.where(self.wrong, -0.004, 0.0003) * np.exp(random.normal(size=count)),
            "loss": np.log1p(np.exp(-margin)).astype(np.float32),
            "margin": margin.astype(np.float32),
            "aum": (margin * 0.8 + 0.5 * random.normal(size=count)).astype(np.float32),
            "suggested_label": confident.astype(np.int32),
            "suggested_probability": random.uniform(0.4, 1.0, count).astype(np.float32),
        }

    def config(self, run: str | Path, **overrides: Any) -> Config:
        raw = {
            "run": str(run),
            "data": {"source": {"kind": "digits"}},
            "score": {"methods": list(self.methods)},
            "report": {"rank_by": self.rank_by, "flagged": self.flagged, "gallery": self.gallery},
            "mlflow": {"tracking_uri": self.tracking_uri},
        }
        return parse_config({**raw, **overrides})

    def write(self, path: str | Path) -> tuple[Config, RunFolder]:
        run = RunFolder(path)
        config = self.config(path)
        recorded = {"versions": {"auditor": "0.1.0", "torch": "2.15.0"}, "revision": "0123abc"}
        run.write_bytes("config.yaml", yaml.safe_dump({**config.model_dump(mode="json"), **recorded}).encode())
        self._write_dataset(run)
        self.write_scores(run)
        self._write_trajectory(run)
        run.write_json("stages.json", {"seconds": {"prepare": 1.5, "train": 20.25, "score": 4.0}})
        return config, run

    def training_table(self) -> pa.Table:
        columns: dict[str, Any] = {"row": pa.array(np.arange(self.rows, dtype=np.int32)), "sample_id": self.sample_ids}
        if self.features is not None:
            columns["features"] = pa.array(list(self.features), pa.list_(pa.float32()))
        else:
            images = self.images or [png(digit_like(label, row)) for row, label in enumerate(self.true)]
            paths = self.paths or [None] * self.rows
            columns["image"] = pa.array(
                [{"bytes": image, "path": path} for image, path in zip(images, paths, strict=True)],
                pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
            )
        columns["label"] = pa.array(self.label)
        if self.truth:
            columns["true_label"] = pa.array(self.true)
        table = pa.table({**columns, **self.carried})
        return table.replace_schema_metadata({b"class_names": json.dumps(list(self.class_names)).encode()})

    def write_scores(self, run: RunFolder, table: pa.Table | None = None) -> None:
        """Two files, in an order that has nothing to do with the rows'."""
        run.remove("scores")
        table = self.scores_table() if table is None else table
        order = np.random.default_rng(7).permutation(len(table))
        for part, rows in enumerate(np.array_split(order, 2)):
            run.write_table(f"scores/{part}-abc.parquet", table.take(rows))

    def scores_table(self) -> pa.Table:
        names = [*self.methods, "suggested_label", "suggested_probability"]
        scores = {**{name: self.scores[name] for name in names}, **self.variants}
        return pa.table({"sample_id": pa.array(self.sample_ids, pa.string()), "label": self.label, **scores})

    def _write_dataset(self, run: RunFolder) -> None:
        table = self.training_table()
        half = len(table) // 2
        for part, piece in enumerate((table.slice(0, half), table.slice(half))):
            run.write_table(f"dataset/train/part-{part:05d}.parquet", piece, row_group_size=1024)
        counts = np.bincount(self.label, minlength=len(self.class_names)).tolist()
        shape = [1, 8, 8] if self.features is None else [self.features.shape[1]]
        splits = {"train": {"rows": self.rows, "class_counts": counts}}
        splits |= {name: {"rows": 12, "class_counts": [12]} for name in ("validation", "test")}
        run.write_json(
            "dataset.json",
            {
                "splits": splits,
                "class_names": list(self.class_names),
                "input_shape": shape,
                "mean": [0.5],
                "std": [0.2],
                "true_labels": self.truth,
                "flipped": int(self.wrong.sum()),
                "fingerprint": hashlib.sha256(self.label.tobytes()).hexdigest(),
                "carried": list(self.carried),
                "quarantine": {
                    "limit": 0.01,
                    "counts": {"corrupt_image": len(self.quarantine)},
                    "rows": list(self.quarantine),
                },
                "warnings": [],
            },
        )

    def _write_trajectory(self, run: RunFolder) -> None:
        steps = EPOCHS * STEPS_PER_EPOCH
        random = np.random.default_rng(self.seed)
        at = np.repeat(np.arange(steps, dtype=np.int32), 2)  # two micro-batches a step
        loss = 1.8 * np.exp(-at / 6) + 0.1 + 0.05 * random.random(len(at))
        batches = {
            "step": at,
            "epoch": at // STEPS_PER_EPOCH,
            "micro_batch": np.tile(np.arange(2, dtype=np.int32), steps),
            "rank": np.tile(np.arange(2, dtype=np.int32), steps),
            "samples": pa.array([[0, 1]] * len(at), pa.list_(pa.int32())),
            "lr": 0.05 * (1 + np.cos(np.pi * at / steps)) / 2,
            "rho": np.full(len(at), 0.05),
            "grad_norm": 1 + random.random(len(at)),
            "loss": loss,
        }
        epoch = np.repeat(np.arange(EPOCHS, dtype=np.int32), self.rows)
        margin = np.tile(self.scores["margin"], EPOCHS) + epoch - 2
        signals = {
            "epoch": epoch,
            "sample": np.tile(np.arange(self.rows, dtype=np.int32), EPOCHS),
            "loss": np.log1p(np.exp(-margin)).astype(np.float32),
            "margin": margin.astype(np.float32),
            "loss_perturbed": np.log1p(np.exp(0.5 - margin)).astype(np.float32),
            "margin_perturbed": (margin - 0.5).astype(np.float32),
            "predicted": np.zeros(len(epoch), np.int32),
        }
        cut, segments = steps // 2, []
        for first, end in ((0, cut), (cut, steps)):
            name = f"{first:08d}.parquet"
            inside = (at >= first) & (at < end)
            run.write_table(f"trajectory/batches/{name}", pa.table(batches).filter(pa.array(inside)))
            inside = (epoch >= first // STEPS_PER_EPOCH) & (epoch < end // STEPS_PER_EPOCH)
            run.write_table(f"trajectory/signals/{name}", pa.table(signals).filter(pa.array(inside)))
            segments.append({"first_step": first, "end_step": end, "batches": [name], "signals": [name]})
        planned = [0, cut, steps]
        manifest = {
            "status": "complete",
            "rows": self.rows,
            "steps": steps,
            "steps_per_epoch": STEPS_PER_EPOCH,
            "epochs": EPOCHS,
            "batch_size": 4,
            "micro_batch_size": 2,
            "optimizer": {},
            "perturbation": {},
            "seed": 0,
            "world_size": 2,
            "checkpoint_steps": planned,
            "checkpoints": planned,
            "segments": segments,
            "seconds": 20.25,
        }
        run.write_json("trajectory/manifest.json", manifest)
        checkpoints = [
            {
                "step": step,
                "epoch": step / STEPS_PER_EPOCH,
                "validation_loss": float(1.6 * np.exp(-step / 7) + 0.21),
                "validation_accuracy": float(0.95 - 0.7 * np.exp(-step / 7)),
            }
            for step in planned
        ]
        final = {"validation_loss": checkpoints[-1]["validation_loss"], "validation_accuracy": 0.91}
        final |= {"test_loss": 0.25, "test_accuracy": 0.9375, "query": self.query}
        final["query_loss"] = final["validation_loss"] if self.query == "validation loss" else 0.75
        run.write_json("evaluation.json", {"statistics": "precise", "checkpoints": checkpoints, **final})


def write_verification(
    audit: Audit,
    run: RunFolder,
    effect: NDArray[np.float64],
    ones: int = 24,
    subsets: int = 24,
    drop_rates: Sequence[float] = (0.05,),
) -> Fidelity:
    """What retrainings would have left and said if each row really had its effect [rows] on a loss of 0.5."""
    wanted = {"leave_one_out": ones, "subsets": subsets, "drop_rates": list(drop_rates)}
    removals = planned(audit.config(run, verify=wanted), run)
    for removal in removals:
        run.write_json(result_file(removal), {"loss": 0.5 + float(effect[list(removal.rows)].sum())})
    return verified(run, removals)


def png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def digit_like(label: int, row: int) -> NDArray[np.uint8]:
    """8x8 pixels that differ by class and by row."""
    pixels = np.random.default_rng(row).integers(0, 60, (8, 8), dtype=np.uint8)
    pixels[label % 8, :] = 220
    pixels[:, (3 * label) % 8] = 160
    return pixels


def write_features(audit: Audit, run: RunFolder, wide: int = 6) -> dict[str, NDArray[np.float32]]:
    """Features of every training sample and of a dozen validation samples, in two files a split, and a last layer."""
    random = np.random.default_rng(audit.seed + 3)
    classes = len(audit.class_names)
    centres = random.normal(size=(classes, wide))
    labels = {"train": audit.true, "validation": random.integers(0, classes, 12).astype(np.int32)}
    table = audit.training_table().slice(0, 12)
    names = pa.array([f"{name} validation" for name in table["sample_id"].to_pylist()])
    for name, values in (("sample_id", names), ("label", pa.array(labels["validation"]))):
        table = table.set_column(table.column_names.index(name), name, values)
    run.write_table("dataset/validation/part-00000.parquet", table)
    found = {}
    for split, given in labels.items():
        features = (centres[given] + 0.7 * random.normal(size=(len(given), wide))).astype(np.float32)
        for part, rows in enumerate(np.array_split(np.arange(len(given)), 2)):
            values = pa.FixedSizeListArray.from_arrays(features[rows].ravel(), wide)
            run.write_table(f"features/{split}/part-{part:05d}.parquet", pa.table({"row": rows, "features": values}))
        found[split] = features
    weight = pa.FixedSizeListArray.from_arrays(centres.ravel(), wide)
    run.write_table("features/head.parquet", pa.table({"bias": np.zeros(classes), "weight": weight}))
    run.write_json("features/features.json", {"head": "fc", "trained": True})
    return found
