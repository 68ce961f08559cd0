"""Commands that compute: training, influence, and what follows from both."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from auditor.cli.base import Request, print_json, stage
from auditor.cli.showing import show_plan, show_summary
from auditor.errors import InputError
from auditor.fidelity.edit_files import EDITS
from auditor.fidelity.words import fidelity_table
from auditor.report.masking import mask


@stage
def run(request: Request) -> None:
    """Train, score and report: the main job. Resumes what was interrupted.

    Example: auditor run docs/examples/digits.yaml --set train.epochs=10 --run runs/short
    """
    show_summary(request, request.audit.run())


@stage
def train(request: Request) -> None:
    """Train with SAM and record the ledger.

    Example: auditor train docs/examples/digits.yaml
    """
    manifest = request.audit.train()
    if request.as_json:
        print_json({"steps": manifest.steps, "checkpoints": manifest.checkpoints, "seconds": manifest.seconds})


@stage
def replay(request: Request) -> None:
    """Compute exact influence by sweeping the recorded training backwards.

    Example: auditor replay docs/examples/digits.yaml
    """
    found = request.audit.replay()
    if request.as_json:
        print_json(dataclasses.asdict(found))


@stage
def score(request: Request) -> None:
    """Score every training sample of a trained run.

    Example: auditor score docs/examples/digits.yaml
    """
    rows = request.audit.score()
    if request.as_json:
        print_json({"rows": rows, "methods": request.audit.config.score.methods})


@stage
def verify(request: Request) -> None:
    """Train again without chosen samples and show how well each method predicted what happened.

    Example: auditor verify docs/examples/digits.yaml --set verify.leave_one_out=60 --set verify.subsets=100
    """
    found = request.audit.verify()
    if request.as_json:
        print_json(dataclasses.asdict(found))
        return
    for line in fidelity_table(found.methods):
        click.echo(line)
    if set(found.columns) - set(found.methods):
        click.echo("\nEvery column, over all retrainings; nothing is chosen here:")
        for line in fidelity_table(found.columns):
            click.echo(line)


@stage
def report(request: Request) -> None:
    """Rank the scored samples and write the report again.

    Example: auditor report docs/examples/digits.yaml
    """
    show_summary(request, request.audit.report())


@stage
def explain(request: Request) -> None:
    """Show misclassified validation images with the training samples that helped and harmed them most.

    Example: auditor explain docs/examples/digits.yaml --set explain.images=20
    """
    found = request.audit.explain()
    if request.as_json:
        print_json(found.to_json())
        return
    click.echo("")
    for sentence in found.sentences():
        click.echo(sentence)
    for image in found.images:
        says = f"labelled {image.label}, model says {image.predicted} ({image.probability:.0%})"
        click.echo(f"\n  {image.sample_id}  {says}, loss {image.loss:.3g}")
        for side, causes in (("helped", image.helped), ("harmed", image.harmed)):
            named = [f"{cause.sample_id} ({cause.label}) {cause.influence:+.2e}" for cause in causes[:3]]
            click.echo(f"    {side} most: {', '.join(named) or 'nothing'}")
    click.echo(f"\nPage: {mask(found.page)}")


@stage
@click.option("--samples", metavar="FILE", help="Leave out the samples of this file, one sample_id a line.")
def edit(request: Request, samples: str | None) -> None:
    """Compute weights as if some samples had never been trained on, and show what that does.

    Example: auditor edit docs/examples/digits.yaml --set edit.remove=harmful --set edit.compare=true
    """
    found = request.audit.edit(None if samples is None else _lines(samples))
    if request.as_json:
        print_json(found.to_json())
        return
    from auditor.fidelity.edit_table import edit_table

    click.echo(f"\nWithout {found.samples:,} of {found.rows:,} training samples ({found.kind}):\n")
    for line in edit_table(found):
        click.echo(line)
    click.echo(f"\nWeights: {mask(request.audit.config.run)}/{EDITS}/{found.key}")


@stage
def plan(request: Request) -> None:
    """Say what an audit will do and cost, before anything starts.

    Example: auditor plan docs/examples/cifar10.yaml
    """
    planned = request.audit.plan()
    if request.as_json:
        print_json(planned.to_json())
    else:
        show_plan(planned)


def _lines(path: str) -> list[str]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--samples {path}: cannot be read ({error})") from error
    if not (found := [line.strip() for line in lines if line.strip()]):
        raise InputError(f"--samples {path}: names no sample")
    return found
