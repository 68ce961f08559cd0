"""What people read in a terminal."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import click

from auditor.cli.base import Request, print_json
from auditor.report import Summary, verdict
from auditor.report.masking import mask

if TYPE_CHECKING:
    from auditor.plan import Plan
    from auditor.review.exported import Export


def show_summary(request: Request, summary: Summary) -> None:
    """An audit in a terminal, or as JSON."""
    if request.as_json:
        print_json(summary.to_json())
        return
    click.echo("")
    for sentence in verdict(summary):
        click.echo(sentence)
    click.echo(f"\nThe {len(summary.top)} most harmful samples by {summary.rank_by}:")
    known = any(sample.true_label is not None for sample in summary.top)
    width = max([9, *(len(sample.sample_id) for sample in summary.top)])
    click.echo(
        f"  rank  {'sample':<{width}}  {'label':<12}  {'model says':<18}  {'harm':>9}{'  truth' if known else ''}"
    )
    for sample in summary.top:
        says = f"{sample.suggested_label} ({sample.suggested_probability:.0%})"
        truth = f"  {sample.true_label}" if known else ""
        name = f"{sample.sample_id:<{width}}"
        click.echo(f"  {sample.rank:>4}  {name}  {sample.label:<12}  {says:<18}  {sample.harm:>9.2e}{truth}")
    if summary.detection:
        click.echo("\nWrong labels found when inspecting the first 10, 20, 40 % of the ranking:")
        wide = max(map(len, summary.detection))
        for method, found in summary.detection.items():
            shares = "  ".join(f"{found.found[share]:>6.1%}" for share in ("0.1", "0.2", "0.4"))
            click.echo(f"  {method:<{wide}}  {shares}   AUROC {found.auroc:.3f}")
    click.echo(f"\nReport: {mask(summary.html)}")
    tracking = request.audit.config.mlflow
    click.echo(f"MLflow: experiment {tracking.experiment} in {mask(tracking.tracking_uri)}")
    command = "auditor" if shutil.which("auditor") else sys.argv[0]
    click.echo(f"        {command} ui {request.path} opens it")


def show_export(done: Export) -> None:
    """What an export did."""
    wide = max(5, *(len(name) for name in done.classes))
    click.echo(f"{'class':<{wide}}  {'before':>8}  {'removed':>8}  {'lost':>8}  {'gained':>8}  {'after':>8}")
    for name, count in done.classes.items():
        numbers = (count.before, count.removed, count.lost, count.gained, count.after)
        click.echo(f"{name:<{wide}}" + "".join(f"  {number:>8,}" for number in numbers))
    click.echo(f"\n{done.removed} rows removed, {done.relabelled} relabelled, {done.kept} confirmed as they are.")
    if done.unapplied:
        shown = ", ".join(done.unapplied[:5])
        click.echo(f"{len(done.unapplied)} verdicts not applied, as the sample is gone or has another label: {shown}")
    if done.set_aside:
        click.echo(f"{done.set_aside} rows that the audit could not use are left out.")
    if done.folder is None:
        click.echo("Nothing was written.")
        return
    click.echo(f"Written to {done.folder}; this audits it:")
    command = "auditor" if shutil.which("auditor") else sys.argv[0]
    click.echo(f"        {command} run {done.folder}/audit.yaml")


def show_plan(planned: Plan) -> None:
    """What an audit will do and cost."""
    rows = ", ".join(f"{count:,} {split}" for split, count in planned.rows.items())
    click.echo(f"rows         {rows}; {planned.classes} classes; inputs {list(planned.input_shape)}")
    click.echo(f"model        {planned.parameters:,} parameters")
    click.echo(
        f"training     {planned.steps:,} steps ({planned.steps_per_epoch} an epoch), {planned.micro_batches} "
        f"micro-batches each, on {planned.train_workers} workers; {planned.checkpoints} checkpoints"
    )
    if planned.seconds:
        times = ", ".join(f"{stage} {_duration(seconds)}" for stage, seconds in planned.seconds.items())
        click.echo(f"time         {times} of computing, as measured here; starting processes comes on top")
    else:
        click.echo("time         not measured: this machine has no such device as the workers ask for")
    click.echo(f"memory       {_sizes(planned.memory)} for each worker, beside the libraries")
    click.echo(f"disk         {_sizes(planned.disk)}")


def _sizes(sizes: dict[str, int]) -> str:
    parts = ", ".join(f"{name} {_bytes(size)}" for name, size in sizes.items())
    return f"{_bytes(sum(sizes.values()))} ({parts})"


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
