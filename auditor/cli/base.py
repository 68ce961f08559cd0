"""The group of commands, and what those of one audit have in common."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from auditor.config import load_config
from auditor.process import talk

if TYPE_CHECKING:
    from auditor.audit import Audit


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


def print_json(value: dict[str, Any]) -> None:
    """The result for programs."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
