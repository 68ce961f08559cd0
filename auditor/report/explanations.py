"""Misclassified validation images beside the training samples that helped and harmed them most, as one HTML file.

The form is figure 4 of "Attributing Data for Sharpness-Aware Minimization" (arXiv 2507.04059).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from auditor.config import Config
from auditor.report.inputs import inputs_of
from auditor.report.pages import inline, templates
from auditor.report.provenance import run_name
from auditor.report.thumbnails import Thumbnail, sparkline, thumbnail
from auditor.storage import RunFolder

PAGE = "explain/explain.html"


@dataclass(frozen=True)
class Picture:
    """What a sample looks like."""

    thumbnail: Thumbnail | None
    bars: str
    """Feature values as an SVG path in a box 100 wide and 40 high; empty for images."""


@dataclass(frozen=True)
class Cause:
    """A training sample that moved the loss of a validation image."""

    sample_id: str
    label: str
    true_label: str | None
    """Where it is known and differs from the label."""
    influence: float
    """In nats of the image's loss: positive helps."""
    picture: Picture


@dataclass(frozen=True)
class Explanation:
    """One validation image; every text is raw and escaped by the template."""

    sample_id: str
    label: str
    predicted: str
    probability: float
    """Of the predicted class."""
    loss: float
    """In nats."""
    lds: float | None
    """Rank correlation of predicted and measured effects on this image's loss; None without retrainings."""
    picture: Picture
    helped: tuple[Cause, ...]
    """Without them the loss would be higher, the most helpful first."""
    harmed: tuple[Cause, ...]
    """Without them the loss would be lower, the most harmful first."""


@dataclass(frozen=True)
class Explanations:
    """All that was explained."""

    images: tuple[Explanation, ...]
    misclassified: int
    """Validation images that the model gets wrong, shown or not."""
    retrainings: int
    """That judged the predictions."""
    method: str
    rounding: Mapping[str, float] | None
    """What computing in fewer bits than the parameters have cost at worst; None where nothing was computed so."""
    page: str
    """Path or URI of explain.html."""

    @property
    def lds(self) -> float | None:
        """Mean over the images whose predictions could be judged."""
        judged = [image.lds for image in self.images if image.lds is not None]
        return float(np.mean(judged)) if judged else None

    def to_json(self) -> dict[str, Any]:
        """Plain values; pictures apart."""

        def causes(found: tuple[Cause, ...]) -> list[dict[str, Any]]:
            return [{"sample_id": c.sample_id, "label": c.label, "influence": c.influence} for c in found]

        return {
            "misclassified": self.misclassified,
            "method": self.method,
            "retrainings": self.retrainings,
            "lds": self.lds,
            "rounding": self.rounding,
            "images": [
                {
                    **{name: getattr(image, name) for name in ("sample_id", "label", "predicted", "probability")},
                    **{name: getattr(image, name) for name in ("loss", "lds")},
                    "helped": causes(image.helped),
                    "harmed": causes(image.harmed),
                }
                for image in self.images
            ],
        }

    def sentences(self) -> list[str]:
        """What was found, and how far it can be trusted."""
        if not self.misclassified:
            return ["The model classifies every validation image as it is labelled: there is nothing to explain."]
        count, shown = self.misclassified, len(self.images)
        which = "it is" if count == 1 else "all are" if shown == count else f"the {shown} of the highest loss are"
        told = [
            f"{count:,} validation {'image is' if count == 1 else 'images are'} misclassified; {which} explained by "
            f"{self.method}, which ranks training samples: read the order, not the sizes."
        ]
        if self.lds is None:
            told.append(
                "These explanations have not been compared with real retrainings: verify with at least four random "
                "subsets, and explain again."
            )
        else:
            told.append(
                f"How far to trust them, by {self.retrainings} real retrainings without random samples: predicted and "
                f"measured changes of one image's loss correlate {self.lds:.2f} in rank, on average over the images."
            )
        if (lost := self.rounding) is not None:
            some = "" if lost["images"] == shown else f", {lost['images']:,} of the {shown} images"
            told.append(
                f"Computed in fewer bits than the parameters have{some}: over {lost['rows']:,} samples that moved "
                f"the influence on an image by {lost['typical']:.1%} at most (root mean square) and kept the ranks "
                f"(correlation {lost['rank']:.5f} at least)."
            )
        return told


def read_explanations(run: RunFolder) -> Explanations:
    """What an earlier `explain` found."""
    described = run.read_json("explain/explain.json")
    dataset = run.read_json("dataset.json")
    names = [str(name) for name in dataset["class_names"]]
    images = run.read_table("explain/images.parquet").to_pylist()
    lines = run.read_table("explain/influence.parquet").to_pylist()
    truth = _truth(run, names) if dataset["true_labels"] else {}
    shown = _pictures(run, "validation", [line["row"] for line in images])
    causes = _pictures(run, "train", [line["row"] for line in lines])

    def found(image: str, side: str) -> tuple[Cause, ...]:
        some = [line for line in lines if line["image"] == image and line["side"] == side]
        return tuple(
            Cause(
                line["sample_id"],
                names[line["label"]],
                truth.get(line["row"]),
                line["influence"],
                causes[line["row"]],
            )
            for line in sorted(some, key=lambda line: line["rank"])
        )

    return Explanations(
        images=tuple(
            Explanation(
                sample_id=line["sample_id"],
                label=names[line["label"]],
                predicted=names[line["predicted"]],
                probability=line["probability"],
                loss=line["loss"],
                lds=line["lds"] if line["lds"] is None or np.isfinite(line["lds"]) else None,
                picture=shown[line["row"]],
                helped=found(line["sample_id"], "helped"),
                harmed=found(line["sample_id"], "harmed"),
            )
            for line in images
        ),
        misclassified=described["misclassified"],
        retrainings=described["retrainings"],
        method=described["settings"]["method"],
        rounding=described.get("rounding"),
        page=f"{run}/{PAGE}",
    )


def write_explanations(config: Config, run: RunFolder) -> Explanations:
    """Write explain/explain.html, self-contained, from what `explain` has left in the run folder.

    Args:
        config: The audit.
        run: Its run folder.

    Returns:
        What it shows.
    """
    found = read_explanations(run)
    page = (
        templates()
        .get_template("explain.html.j2")
        .render(
            name=run_name(config),
            written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            styles=[inline("report.css"), inline("explain.css")],
            found=found,
        )
    )
    run.write_bytes(PAGE, page.encode())
    return found


def _truth(run: RunFolder, names: list[str]) -> dict[int, str]:
    """True labels by training row, of those that are known to be labelled wrongly."""
    train = run.read_table("dataset/train", columns=["row", "label", "true_label"])
    rows, given, true = (train[name].to_pylist() for name in ("row", "label", "true_label"))
    return {
        row: names[known]
        for row, label, known in zip(rows, given, true, strict=True)
        if known is not None and known >= 0 and known != label
    }


def _pictures(run: RunFolder, split: str, rows: list[int]) -> dict[int, Picture]:
    found = inputs_of(run, split, sorted(set(rows)))
    return {row: _picture(line) for row, line in found.items()}


def _picture(line: dict[str, Any]) -> Picture:
    features = np.asarray(line.get("features") or [], dtype=np.float64)
    return Picture(thumbnail(line.get("image") or {}), sparkline(features) if len(features) else "")
