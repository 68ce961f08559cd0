from __future__ import annotations

import pytest
from torch import nn

from auditor.models import build_model
from auditor.models.frozen import freeze


def trainable(model):
    return [name for name, value in model.named_parameters() if value.requires_grad]


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        ((), ["1.weight", "1.bias", "3.weight", "3.bias"]),
        (("1.*",), ["3.weight", "3.bias"]),
        (("*.bias", "3.weight"), ["1.weight"]),
        (("[13].weight",), ["1.bias", "3.bias"]),
    ],
)
def test_what_matches_a_pattern_is_not_trained(patterns, left):
    assert trainable(build_model("mlp", {"hidden": [3]}, (4,), 2, seed=0, frozen=patterns)) == left


def test_a_parameter_with_two_names_is_frozen_by_either():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2), "c": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    freeze(model, ["b.weight"])
    assert trainable(model) == ["a.bias", "b.bias", "c.weight", "c.bias"]


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (
            ["1.*", "body.*"],
            r"model.frozen 'body.\*' matches no parameter of the model \(1.weight, 1.bias, 3.weight, …\)",
        ),
        (["1.*", "3.*"], r"model.frozen \['1.\*', '3.\*'\] leaves no parameter of the model to train"),
    ],
)
def test_patterns_that_fit_nothing_or_everything_are_named(patterns, message):
    with pytest.raises(ValueError, match=message):
        build_model("mlp", {"hidden": [3]}, (4,), 2, seed=0, frozen=patterns)
