"""Figures of a report as PNG images."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from auditor.report import plots
from auditor.report.curves import TrainingCurves
from auditor.report.detection import Detection
from auditor.report.palette import FAINT, GRID, INK, PAGE
from auditor.report.ranking import Ranking

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelcolor": FAINT,
    "axes.edgecolor": GRID,
    "axes.facecolor": PAGE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.1,
}


@dataclass(frozen=True)
class Picture:
    """One figure, ready to be written or embedded."""

    name: str
    """File name without the ending."""
    caption: str
    width: int
    """Width on a page, in CSS pixels; the image itself is finer."""
    png: bytes


def draw_figures(
    ranking: Ranking, detection: dict[str, Detection], training: TrainingCurves, effects: pa.Table | None = None
) -> list[Picture]:
    """Draw all figures that the run has data for.

    Args:
        ranking: The ranked table.
        detection: How well each method finds wrong labels; its figure is left out when this is empty.
        training: Curves of the training.
        effects: Predicted and measured effects of retrainings; None without a verification.

    Returns:
        Pictures in the order of the report.
    """
    pictures = []
    if effects is not None and set(effects["kind"].to_pylist()) & {"one", "subset"}:
        caption = (
            "Every point is a real retraining without some samples: what leaving them out was predicted to do to the "
            "loss, and what it did."
        )
        draw = partial(plots.retrainings, effects=effects, column=ranking.standing[ranking.rank_by])
        pictures.append(_picture("retrainings", caption, (8.8, 3.6), draw))
    if training.curves:
        caption = "Loss and accuracy on the training batches and on the validation set, and the learning rate."
        pictures.append(_picture("training", caption, (11.0, 3.2), partial(plots.training, curves=training)))
    caption = (
        "All training samples by score, each turned so that harmful or suspicious samples are on the right. Counts are "
        "logarithmic; values beyond the outer 0.1% are drawn at the edge."
    )
    rows = -(-len(ranking.methods) // plots.PANELS)
    size = (2.75 * max(-(-len(ranking.methods) // rows), 2), 0.4 + 2.6 * rows)
    pictures.append(_picture("scores", caption, size, partial(plots.scores, ranking=ranking)))
    if detection:
        caption = "How many of the wrong labels are found when each method's ranking is read from the top."
        pictures.append(_picture("detection", caption, (6.6, 4.0), partial(plots.detection, detection=detection)))
    return pictures


def _picture(name: str, caption: str, size: tuple[float, float], draw: Callable[[Figure], None]) -> Picture:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=size, facecolor=PAGE, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=144, format="png")
    return Picture(name, caption, round(96 * size[0]), buffer.getvalue())
