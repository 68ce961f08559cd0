"""The `auditor` command: arguments and messages only."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from auditor.config import load_config
from auditor.errors import InputError
from auditor.fidelity.edit_files import EDITS
from auditor.fidelity.words import fidelity_table
from auditor.parcel import pack
from auditor.process import ending, talk
from auditor.report import Summary, verdict
from auditor.report.masking import mask
from auditor.review.comparison import compare as compare_runs
from auditor.review.review import sentences
from auditor.storage import RunFolder

if TYPE_CHECKING:
    from auditor.audit import Audit
    from auditor.plan import Plan
    from auditor.review.export import Export

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="auditor")
def cli() -> None:
    """Find the training data that harms a SAM-trained image classifier, and prove how far the finding holds.

    Example: auditor run docs/examples/digits.yaml
    """


@dataclasses.dataclass(frozen=True)
class Request:
    """What every stage's command is given."""

    path: str
    """Of the configuration, as it was typed."""
    audit: Audit
    as_json: bool


def stage(function: Callable[..., None]) -> click.Command:
    """Make a command of a function of a request and of the options that it declares itself."""

    @click.argument("config", type=click.Path())
    @click.option("--run", metavar="DIR", help="Use this run folder instead of the configuration's.")
    @click.option("--set", "overrides", multiple=True, metavar="KEY.PATH=VALUE", help="Override any key; repeatable.")
    @click.option("--json", "as_json", is_flag=True, help="Print the result as JSON and nothing else.")
    @click.option("--verbose", is_flag=True, help="Show what Ray and its workers log.")
    @functools.wraps(function)
    def command(
        config: str, run: str | None, overrides: tuple[str, ...], as_json: bool, verbose: bool, **own: Any
    ) -> None:
        talk(quiet=as_json, verbose=verbose)
        settings = load_config(config, overrides, run)
        from auditor.audit import Audit  # and with it torch, for which neither a mistake nor another command waits

        function(Request(config, Audit(settings, verbose), as_json), **own)

    return cli.command()(command)


@stage
def run(request: Request) -> None:
    """Train, score and report: the main job. Resumes what was interrupted.

    Example: auditor run docs/examples/digits.yaml --set train.epochs=10 --run runs/short
    """
    _show_summary(request, request.audit.run())


@stage
def train(request: Request) -> None:
    """Train with SAM and record the ledger.

    Example: auditor train docs/examples/digits.yaml
    """
    manifest = request.audit.train()
    if request.as_json:
        _print_json({"steps": manifest.steps, "checkpoints": manifest.checkpoints, "seconds": manifest.seconds})


@stage
def replay(request: Request) -> None:
    """Compute exact influence by sweeping the recorded training backwards.

    Example: auditor replay docs/examples/digits.yaml
    """
    found = request.audit.replay()
    if request.as_json:
        _print_json(dataclasses.asdict(found))


@stage
def score(request: Request) -> None:
    """Score every training sample of a trained run.

    Example: auditor score docs/examples/digits.yaml
    """
    rows = request.audit.score()
    if request.as_json:
        _print_json({"rows": rows, "methods": request.audit.config.score.methods})


@stage
def verify(request: Request) -> None:
    """Train again without chosen samples and show how well each method predicted what happened.

    Example: auditor verify docs/examples/digits.yaml --set verify.leave_one_out=60 --set verify.subsets=100
    """
    found = request.audit.verify()
    if request.as_json:
        _print_json(dataclasses.asdict(found))
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
    _show_summary(request, request.audit.report())


@stage
@click.option("--csv", metavar="FILE", help="Take verdicts from this CSV too: sample_id, verdict, new_label, comment.")
def review(request: Request, csv: str | None) -> None:
    """Read the reviewers' verdicts back from MLflow, and from a CSV, and say where the review stands.

    Example: auditor review docs/examples/digits.yaml --csv verdicts.csv
    """
    found = request.audit.review(csv)
    if request.as_json:
        _print_json(found.to_json())
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
        _print_json({**done.to_json(), "check": tried and tried.to_json()})
        return
    for sentence in tried.sentences() if tried is not None else ():
        click.echo(sentence)
    if tried is not None:
        click.echo("")
    _show_export(done)


@stage
def explain(request: Request) -> None:
    """Show misclassified validation images with the training samples that helped and harmed them most.

    Example: auditor explain docs/examples/digits.yaml --set explain.images=20
    """
    found = request.audit.explain()
    if request.as_json:
        _print_json(found.to_json())
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
        _print_json(found.to_json())
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
        _print_json(planned.to_json())
    else:
        _show_plan(planned)


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
        _print_json(dataclasses.asdict(found))
        return
    click.echo(found.changes.sentence)
    for name in ("new", "persistent", "reflagged", "resolved"):
        samples = getattr(found, name)
        if samples:
            more = f" and {len(samples) - 10} more" if len(samples) > 10 else ""
            click.echo(f"{name:<10}  {', '.join(samples[:10])}{more}")


@cli.command()
@click.argument("job", metavar="JOB")
@click.argument("config", type=click.Path())
@click.option("--address", metavar="URL", help="Ray's Jobs API; by default RAY_API_SERVER_ADDRESS, or this machine's.")
@click.option("--run", metavar="DIR", help="Use this run folder instead of the configuration's.")
@click.option("--set", "overrides", multiple=True, metavar="KEY.PATH=VALUE", help="Override any key; repeatable.")
@click.option("--name", metavar="ID", help="The job's id; by default Ray makes one up.")
@click.option("--no-wait", is_flag=True, help="Hand the job in and return.")
@click.option("--json", "as_json", is_flag=True, help="Print how the job ended as JSON and nothing else.")
def submit(
    job: str,
    config: str,
    address: str | None,
    run: str | None,
    overrides: tuple[str, ...],
    name: str | None,
    no_wait: bool,
    as_json: bool,
) -> None:
    """Run a job on a Ray cluster that has auditor installed, show what it says, and exit as it does.

    JOB is audit, train, replay, verify or review, or a Python script of your own such as jobs/audit.py. The
    configuration goes along, and the module of a model of your own; data and credentials do not.

    Example: auditor submit audit docs/examples/digits.yaml --run s3://audits/digits
    """
    talk(quiet=as_json)
    with tempfile.TemporaryDirectory(prefix="auditor-") as folder:
        parcel = pack(job, config, overrides, run, Path(folder))
        from auditor.distributed.submission import Jobs, find_address

        jobs = Jobs(find_address(address))
        submitted = jobs.submit(parcel.entrypoint, parcel.folder, parcel.run, name)
    follow, stop = (f"ray job {verb} --address {jobs.address} {submitted}" for verb in ("logs --follow", "stop"))
    if not as_json:
        click.echo(f"Job {submitted} is at {jobs.address}.\n  follow it: {follow}\n  stop it:   {stop}", err=True)
    elif no_wait:
        _print_json({"job": submitted, "address": jobs.address})
    if no_wait:
        return
    try:
        ended = jobs.follow(submitted, None if as_json else functools.partial(click.echo, nl=False))
    except KeyboardInterrupt:
        click.echo(f"\nThe job goes on.\n  follow it: {follow}\n  stop it:   {stop}", err=True)
        sys.exit(130)
    if as_json:
        _print_json(dataclasses.asdict(ended))
    else:
        click.echo(f"Job {submitted}: {ended.status}", err=True)
    sys.exit(0 if ended.status == "SUCCEEDED" else 2 if ended.exit_code == 2 else 1)


@cli.command()
@click.argument("config", type=click.Path())
@click.option("--cron", "expression", metavar="EXPRESSION", help="When: minute, hour, day of month, month, weekday.")
@click.option("--time-zone", metavar="NAME", default="UTC", show_default=True, help="Of the cron expression.")
@click.option("--local", is_flag=True, help="Keep the schedule in this process, until SIGTERM or Ctrl-C.")
@click.option("--once", is_flag=True, help="Run what is due now, wait for its end, and exit with its code.")
@click.option("--address", metavar="URL", help="Submit to this Jobs API of a Ray cluster instead of running here.")
@click.option(
    "--form",
    type=click.Choice(["cronjob", "raycronjob", "rayjob"]),
    default="cronjob",
    show_default=True,
    help="What starts the audit on Kubernetes; a rayjob does once.",
)
@click.option(
    "--image", default=f"auditor:{metadata.version('auditor')}", show_default=True, help="With auditor in it."
)
@click.option("--name", help="Of what is made on Kubernetes; by default the run folder's.")
@click.option("--out", metavar="DIR", help="Write the manifests here instead of showing them.")
@click.option("--run", metavar="DIR", help="Use this run folder, and a date, instead of the configuration's.")
@click.option("--set", "overrides", multiple=True, metavar="KEY.PATH=VALUE", help="Override any key; repeatable.")
def schedule(
    config: str,
    expression: str | None,
    time_zone: str,
    local: bool,
    once: bool,
    address: str | None,
    form: Literal["cronjob", "raycronjob", "rayjob"],
    image: str,
    name: str | None,
    out: str | None,
    run: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Audit again and again: manifests for Kubernetes or, with --local, a schedule that this process keeps.

    Each tick has a run folder of its own, named by its date, and is compared with the one before. What became of each
    stands in history.csv, in the folder that is named like the run folder with -schedule behind it.

    Example: auditor schedule docs/examples/digits.yaml --cron '0 3 * * 1' --local
    """
    talk()
    from auditor.schedule import command

    cron = command.parse_cron(expression, time_zone) if expression is not None else None
    if local or once:
        if cron is None or (local and once):
            raise InputError("--local and --once need --cron EXPRESSION, and exclude each other")
        order = command.Order.from_yaml(config, overrides, run, address)
        if local:
            command.keep(order, cron)
        else:
            sys.exit(command.once(order, cron))
        return
    files = command.render(config, overrides, run, cron, form=form, name=name, image=image, address=address)
    if out is None:
        click.echo("---\n".join(files.values()), nl=False)
        return
    for path in command.write(files, out):
        click.echo(path)


@cli.command()
@click.argument("config", type=click.Path())
@click.option("--port", default=5000, show_default=True, help="Port on this machine.")
def ui(config: str, port: int) -> None:
    """Open MLflow on the run's store.

    Example: auditor ui docs/examples/digits.yaml
    """
    talk()
    uri = load_config(config).mlflow.tracking_uri
    if uri.startswith(("http://", "https://")):
        click.echo(f"MLflow is at {uri}")
        return
    click.echo(f"MLflow will be at http://127.0.0.1:{port} (Ctrl-C ends it)")
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # two processes instead of ten
    arguments = ["-m", "mlflow", "server", "--backend-store-uri", uri, "--port", str(port), "--workers", "1"]
    os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606


def main(arguments: list[str] | None = None) -> None:
    """Run the command; exits with 0 when done, 2 when the input is wrong, 143 on SIGTERM, 1 for anything else."""
    # A model of one's own is found beside the configuration's caller, as with `python -m`.
    sys.path.insert(0, "")
    with ending():
        cli.main(arguments, prog_name="auditor", standalone_mode=True)


def _lines(path: str) -> list[str]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--samples {path}: cannot be read ({error})") from error
    if not (found := [line.strip() for line in lines if line.strip()]):
        raise InputError(f"--samples {path}: names no sample")
    return found


def _print_json(value: dict[str, Any]) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _show_summary(request: Request, summary: Summary) -> None:
    if request.as_json:
        _print_json(summary.to_json())
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


def _show_export(done: Export) -> None:
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


def _show_plan(planned: Plan) -> None:
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
