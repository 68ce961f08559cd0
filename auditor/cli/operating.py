"""Commands for whoever runs audits on a cluster, on a schedule, and beside a tracking server."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Literal

import click

from auditor.cli.base import cli, print_json
from auditor.config import load_config
from auditor.errors import InputError
from auditor.parcel import pack
from auditor.process import talk


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
        print_json({"job": submitted, "address": jobs.address})
    if no_wait:
        return
    try:
        ended = jobs.follow(submitted, None if as_json else functools.partial(click.echo, nl=False))
    except KeyboardInterrupt:
        click.echo(f"\nThe job goes on.\n  follow it: {follow}\n  stop it:   {stop}", err=True)
        sys.exit(130)
    if as_json:
        print_json(dataclasses.asdict(ended))
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
