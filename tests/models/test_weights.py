from __future__ import annotations

import pytest
import torch
from torch import nn

from auditor.models import build_model
from auditor.models.weights import fit, put


def cnn(classes=3, seed=0, dtype=torch.float32):
    return build_model("small_cnn", {"widths": [4]}, (1, 4, 4), classes, seed, dtype)


def test_a_state_dict_of_the_same_network_is_taken_whole_in_the_models_types():
    given, model = cnn(seed=1).state_dict(), cnn(dtype=torch.float64)
    given["1.running_mean"] += 2
    fitted = fit(model, given, "6")
    assert fitted.seeded == ()
    put(model, fitted.taken)
    assert model.state_dict().keys() == given.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, given[name].to(value.dtype))
        assert value.dtype == (torch.int64 if name.endswith("tracked") else torch.float64)


@pytest.mark.parametrize("change", ["classes", "missing", "new"])
def test_only_the_last_layer_keeps_what_it_has(change):
    given, model = cnn(5 if change == "classes" else 3, seed=1).state_dict(), cnn()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if change == "missing":
        del given["6.bias"]
    fitted = fit(model, given, "6", new_head=change == "new")
    assert fitted.seeded == (("6.bias",) if change == "missing" else ("6.weight", "6.bias"))
    put(model, fitted.taken)
    for name, value in model.state_dict().items():
        assert torch.equal(value, (before if name in fitted.seeded else given)[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: given.pop("0.weight"), "^lacks 0.weight$"),
        (
            lambda given: given.update({f"fc{n}.weight": torch.ones(1) for n in range(5)}),
            "has what the model has not: fc0.weight, fc1.weight, fc2.weight and 2 more",
        ),
        (lambda given: given.update({"1.bias": torch.ones(7)}), r"has 1.bias \[7\] in place of \[4\]"),
        (lambda given: given.update({"1.bias": torch.ones(4, dtype=torch.int8)}), r"has 1.bias \[4\] of integers in"),
        (lambda given: given.update({"1.bias": torch.full((4,), torch.nan)}), "not finite in 1.bias"),
        (lambda given: given.update({"7.bias": given.pop("6.bias")}), "has what the model has not: 7.bias"),
    ],
)
def test_anything_else_that_does_not_fit_is_named(change, message):
    given = cnn(seed=1).state_dict()
    change(given)
    with pytest.raises(ValueError, match=message):
        fit(cnn(), given, "6")


def test_without_a_last_layer_nothing_may_differ():
    with pytest.raises(ValueError, match=r"has 6.weight \[5, 4\] in place of \[3, 4\], 6.bias"):
        fit(cnn(), cnn(5).state_dict(), None)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.zeros(2), persistent=False)


@pytest.mark.parametrize("name", ["first.weight", "second.weight"])
@pytest.mark.parametrize("scaled", [True, False])
def test_a_shared_parameter_may_have_either_name_and_a_buffer_apart_from_the_state_dict_may_be_given(name, scaled):
    given = {name: torch.eye(2), "first.bias": torch.ones(2), "second.bias": torch.ones(2)}
    model = Tied()
    put(model, fit(model, {**given, **({"scale": torch.ones(2)} if scaled else {})}, None).taken)
    assert torch.equal(model.second.weight, torch.eye(2))
    assert float(model.scale.sum()) == (2.0 if scaled else 0.0)
