"""Commands for reviewers: verdicts in, cleaned data out, and one audit beside another."""

from __future__ import annotations

import dataclasses

import click

from auditor.cli.base import Request, cli, print_json, stage
from auditor.cli.showing import show_export
from auditor.errors import InputError
from auditor.process import talk
from auditor.review.comparison import compare as compare_runs
from auditor.review.review import sentences
from auditor.storage import RunFolder


@stage
@click.option(
    "--csv", metavar="FILE", help="Take verdicts from this CSV too: sample_id, verdict, new_label, comment, reviewer."
)
def review(request: Request, csv: str | None) -> None:
    """Read the reviewers' verdicts back from MLflow, and from a CSV, and say where the review stands.

    Example: auditor review docs/examples/digits.yaml --csv verdicts.csv
    """
    found = request.audit.review(csv)
    if request.as_json:
        print_json(found.to_json())
        return
    for sentence in sentences(found):
        click.echo(sentence)


@stage
@click.option("--to", metavar="DIR", help="Folder to write to: new, empty, or with an earlier export.")
@click.option("--dry-run", is_flag=True, help="Show the counts by class and write nothing.")
@click.option("--check", is_flag=True, help="First train again with the verdicts, and show what that does to the loss.")
def export(request: Request, to: str | None, dry_run: bool, check: bool) -> None:
    """Write the audited rows with the reviewers' verdicts applied: removed rows out, labels replaced.

    Example: auditor export docs/examples/digits.yaml --check --to runs/digits-cleaned
    """
    if to is None and not dry_run:
        raise InputError("export needs --to DIR, or --dry-run to see what it would do")
    tried = request.audit.check() if check else None
    done = request.audit.export(None if dry_run else to)
    if request.as_json:
        print_json({**done.to_json(), "check": tried and tried.to_json()})
        return
    for sentence in tried.sentences() if tried is not None else ():
        click.echo(sentence)
    if tried is not None:
        click.echo("")
    show_export(done)


@cli.command()
@click.argument("before")
@click.argument("after")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON and nothing else, samples included.")
def compare(before: str, after: str, as_json: bool) -> None:
    """Compare two audits by their run folders: new, resolved and persistent flags, and what was decided.

    Example: auditor compare runs/digits runs/digits-next
    """
    talk(quiet=as_json)
    found = compare_runs(RunFolder(before), RunFolder(after))
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    click.echo(found.changes.sentence)
    for name in ("new", "persistent", "reflagged", "resolved"):
        samples = getattr(found, name)
        if samples:
            more = f" and {len(samples) - 10} more" if len(samples) > 10 else ""
            click.echo(f"{name:<10}  {', '.join(samples[:10])}{more}")
