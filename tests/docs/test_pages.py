from __future__ import annotations

import re
import shlex

import click
import pytest
import yaml

from auditor.cli import cli
from auditor.config import parse_config
from tests.docs.pages import PAGES, blocks, commands, headings

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@by_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        other = page.parent / name if name else page
        assert other.exists(), target
        assert not anchor or anchor in headings(other), target


@by_page
def test_configurations_shown_are_valid(page):
    for number, code in enumerate(blocks(page, "yaml"), 1):
        parse_config(yaml.safe_load(code), f"{page.name}, block {number}")


@by_page
def test_commands_shown_exist_with_their_options(page):
    for line in commands(page):
        name, *arguments = shlex.split(line)[1:] or ["--help"]
        if name.startswith("-"):
            continue
        command = cli.commands[name]
        if arguments:
            try:
                command.make_context(name, arguments)
            except click.UsageError as error:
                pytest.fail(f"{line}: {error.format_message()}")


@by_page
def test_python_shown_compiles(page):
    for number, code in enumerate(blocks(page, "python"), 1):
        compile(code, f"{page.name}, block {number}", "exec")


def test_pages_hold_all_that_is_looked_for():
    """The tests above would pass on pages whose code they no longer recognise."""
    assert sum(len(blocks(page, "yaml")) for page in PAGES) >= 5
    assert sum(len(blocks(page, "python")) for page in PAGES) >= 6
    assert sum(len(commands(page)) for page in PAGES) >= 10
