"""The review queue of an audit: its flagged samples in MLflow, each once."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from auditor.config import Config
from auditor.report.inputs import inputs_of
from auditor.report.tracking_store import connect, log_folder
from auditor.review.answers import NEW_LABEL, VERDICT, open_queue
from auditor.review.evidence import Ranked
from auditor.review.items import chosen, item_id, make_item, picture_room, shown_features
from auditor.review.mlflow_queue import Question
from auditor.review.pictures import data_uri, png, shrunk
from auditor.review.predecessor import earlier_verdicts, predecessor
from auditor.review.verdicts import WORDS, current
from auditor.storage import RunFolder

_CHOICES, _CHOICE_LENGTH = 10, 64
"""Most options of a question in MLflow, and their longest text."""
_ARTIFACTS = "review"
_SMALL = 64
"""Images up to this many pixels lose nothing that matters when they are made to fit into the pane's text."""


@dataclass(frozen=True)
class Filled:
    """What a queue holds after it was filled."""

    name: str
    items: int
    """In the queue now."""
    added: int
    settled: int
    """Flagged samples before its last item that an earlier verdict answers for."""
    page: str | None
    """Where reviewers find it; None without a server."""


def fill_queue(config: Config, run: RunFolder) -> Filled:
    """Put the flagged samples of the highest priority into the audit's review queue; those that are there already stay.

    Args:
        config: The audit.
        run: Its folder, reported and logged to MLflow.

    Raises:
        InputError: `review.predecessor` is unusable, or the tracking store cannot be opened.
        StageError: The audit is not in this tracking store, MLflow has no review queues, or it went away half way;
            then what is done stays, and another call goes on from there.
    """
    ranked = Ranked.read(run)
    before = predecessor(config, run)
    earlier = {} if before is None else current(earlier_verdicts(config, before))
    lines, passed = chosen(ranked.to_look_at(), earlier, config.review.queue)
    queue, run_id = open_queue(config, run)
    class_names = run.read_json("dataset.json")["class_names"]
    queue_id = queue.make(questions(class_names), config.review.reviewers)
    there = queue.item_ids()
    missing = [line for line in lines if item_id(run_id, line["sample_id"]) not in there]
    shown = _pictures(config, run, run_id, missing)
    rows = len(ranked.table)
    items = [make_item(line, run_id, rows, shown.get(line["sample_id"])) for line in missing]
    queue.add(queue_id, items, run_id)
    return Filled(queue.name, len(there) + len(missing), len(missing), passed, queue.page)


def questions(class_names: Sequence[str]) -> list[Question]:
    """What is asked about every sample.

    Args:
        class_names: In label order; where they are too many to choose from, the new label is a text.
    """
    few = len(class_names) <= _CHOICES and all(0 < len(name) <= _CHOICE_LENGTH for name in class_names)
    label = "Only for relabel: the right class." if few else "Only for relabel: the right class, as the data calls it."
    asked = (
        "keep: the label is right. relabel: another class is right. remove: leave the sample out of training. unsure: "
        "somebody else should look."
    )
    return [
        Question(VERDICT, asked, WORDS, comment=True),
        Question(NEW_LABEL, label, tuple(class_names) if few else ()),
    ]


def _pictures(config: Config, run: RunFolder, run_id: str, lines: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What shows each sample, as Markdown by sample_id.

    A tracking server gets larger images as artifacts, whose addresses the pane can show; without a server nobody knows
    the address, and the picture becomes as good as fits into the text.
    """
    inputs = inputs_of(run, "train", [line["sample_id"] for line in lines], key="sample_id")
    server = config.mlflow.tracking_uri.rstrip("/")
    server = server if server.startswith(("http://", "https://")) and "@" not in server else ""
    shown, large = {}, dict[str, Image.Image]()
    for line in lines:
        sample_id = line["sample_id"]
        given = inputs[sample_id]
        image = shrunk(given["image"]) if given.get("image") else None
        if given.get("features"):
            shown[sample_id] = shown_features(given["features"])
        if image is None:
            continue
        if server and max(image.size) > _SMALL:
            name = f"{item_id(run_id, sample_id)}.png"
            large[name] = image
            shown[sample_id] = f"![]({server}/get-artifact?path={_ARTIFACTS}/{name}&run_uuid={run_id})"
        elif (uri := data_uri(image, picture_room(line))) is not None:
            shown[sample_id] = f"![]({uri})"
    if large:
        with tempfile.TemporaryDirectory() as folder:
            for name, image in large.items():
                (Path(folder) / name).write_bytes(png(image))
            log_folder(connect(config.mlflow.tracking_uri), run_id, folder, _ARTIFACTS)
    return shown
