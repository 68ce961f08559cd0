from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.errors import InputError
from auditor.schedule.names import MOST_CHARACTERS, resource_name


@given(st.text(), st.sampled_from(sorted(MOST_CHARACTERS)))
def test_a_name_is_one_for_kubernetes_or_refused(text, form):
    try:
        name = resource_name(text, form, "--name")
    except InputError:
        return
    assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= MOST_CHARACTERS[form]


def test_other_characters_become_hyphens():
    assert resource_name("Weekly_Audit (digits)", "cronjob", "--name") == "weekly-audit-digits"


@pytest.mark.parametrize(("form", "most"), [("cronjob", 52), ("rayjob", 47), ("raycronjob", 36)])
def test_a_name_that_is_too_long_is_refused_with_its_length(form, most):
    assert resource_name("a" * most, form, "--name") == "a" * most
    with pytest.raises(InputError, match=f"at most {most} characters, a+ has {most + 1}; use --name"):
        resource_name("a" * (most + 1), form, "--name")
