from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.fidelity.edit import Edit, Measured, membership
from auditor.fidelity.edit_table import edit_table

LOSSES = st.lists(st.sampled_from([0.1, 0.5, 0.9, 2.0]), min_size=1, max_size=12)


@given(LOSSES, LOSSES)
def test_membership_is_the_share_of_pairs_in_which_the_removed_sample_has_the_smaller_loss(removed, unseen):
    pairs = [(left < right) + 0.5 * (left == right) for left in removed for right in unseen]
    assert membership(np.array(removed), np.array(unseen)) == pytest.approx(np.mean(pairs))


def measured(**changes):
    return Measured(
        **{
            **dict.fromkeys(
                ("seconds", "query_loss", "validation_loss", "validation_accuracy", "test_accuracy", "removed_loss"),
                0.5,
            ),
            "membership": 0.5,
            **changes,
        }
    )


def edit(**methods):
    return Edit("key", "random", 5, 100, methods)


def test_a_solve_that_did_not_converge_is_a_warning_and_ekfac_which_is_none_is_not():
    how = {"solver": "gmres", "residual": 0.2, "damping": 0.01, "converged": False}
    found = edit(
        hif=measured(solved=how),
        ekfac=measured(solved={**how, "solver": "ekfac"}),
        hif_fast=measured(solved={**how, "converged": True}),
    )
    [warning] = found.warnings()
    assert warning == "hif: gmres left a relative residual of 0.2 at damping 0.01: not converged"


def test_weights_that_classify_far_worse_than_before_are_a_warning():
    found = edit(
        recorded=measured(validation_loss=0.3), gif=measured(validation_loss=0.7), replay=measured(validation_loss=0.4)
    )
    [warning] = found.warnings()
    assert warning.startswith("gif: ")
    assert "0.3 to 0.7" in warning


def test_the_table_has_a_line_for_each_and_dashes_without_a_comparison():
    lines = edit_table(edit(recorded=measured(), replay=measured(distance=0.25, margin_difference=1.0)))
    assert [line.split("  ")[0] for line in lines] == ["weights", "trained with them", "replay"]
    assert lines[1].count("–") == 2
    assert "0.250" in lines[2]
