from __future__ import annotations

import re

from tests.docs.pages import ROOT


def test_every_fault_names_a_test_that_is_there():
    page = (ROOT / "docs/operations/resilience.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", page)
    assert len(named) == len(re.findall(r"^\| (?!fault|---)", page, re.M))
    for path, name in named:
        assert f"\ndef {name}(" in (ROOT / path).read_text(), f"{path} has no {name}"
