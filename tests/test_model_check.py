from __future__ import annotations

import pytest
import torch
from torch import nn

from auditor.errors import InputError
from auditor.model_check import check_model
from tests.distributed.builders import config

SHAPE, CLASSES = (1, 8, 8), 10


class Flat(nn.Module):
    """Gives one number a sample."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_classes))

    def forward(self, inputs):
        return inputs.flatten(1).sum(1) * self.weight.sum()


class Pair(Flat):
    def forward(self, inputs):
        return inputs, inputs


class Picky(Flat):
    def forward(self, inputs):
        return {"logits": inputs}["scale"]


class Silent(Flat):
    def forward(self, inputs):
        assert inputs.shape[1] == 3
        return inputs


class Counting(nn.Sequential):
    """Keeps a state of its own, which would differ from worker to worker."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, inputs):
        if self.training:
            self.seen += len(inputs)
        return super().forward(inputs)


class Backward(torch.autograd.Function):
    """Knows no forward-mode derivative."""

    @staticmethod
    def forward(_context, values):
        return values * 2

    @staticmethod
    def backward(_context, gradient):
        return gradient * 2


class OneWay(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))

    def forward(self, inputs):
        return Backward.apply(super().forward(inputs))


class Branching(nn.Sequential):
    """Looks at its values: nothing can be computed for many samples apart."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))

    def forward(self, inputs):
        return super().forward(inputs if inputs.sum() > 0 else inputs * 2)


class Layer(nn.Module):
    """One linear layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(64, num_classes)

    def forward(self, inputs):
        return self.layer(inputs.flatten(1))


class Insisting(Layer):
    """Adds what a layer gives to what it has made itself, and both must be of one type."""

    def forward(self, inputs):
        logits = super().forward(inputs)
        return inputs.new_zeros(logits.shape).index_add(0, torch.arange(len(logits)), logits)


class Dithering(Layer):
    """Adds noise of the type that its layer computes in, which is another draw in another type."""

    def forward(self, inputs):
        logits = super().forward(inputs)
        return logits + torch.randn_like(logits) if self.training else logits


class Plain(nn.Sequential):
    """BatchNorm that cannot be folded."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.BatchNorm1d(64, affine=False), nn.Linear(64, num_classes))


def synchronised(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.SyncBatchNorm(1), nn.Flatten(), nn.Linear(64, num_classes))


def dropping(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, num_classes), nn.BatchNorm1d(num_classes))


def broken(num_classes: int) -> nn.Module:
    raise RuntimeError("no weights\nare there")


def refusal(tmp_path, name, **args):
    name = name if isinstance(name, str) else f"{__name__}:{name.__name__}"
    with pytest.raises(InputError) as refused:
        check_model(config(tmp_path, model={"name": name, "args": args}), SHAPE, CLASSES)
    return str(refused.value)


@pytest.mark.parametrize("name", ["resnet", "small_cnn", "mlp"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
def test_the_models_by_name_fit(tmp_path, name, shape):
    check_model(config(tmp_path, model={"name": name}), shape, CLASSES)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        (Flat, {}, "returns [4] for 4 samples, expected logits [4, 10]"),
        (Pair, {}, "returns tuple for 4 samples, expected logits [4, 10]"),
        (Picky, {}, "fails on inputs [1, 8, 8]: KeyError: 'scale'"),
        (Silent, {}, "fails on inputs [1, 8, 8]: AssertionError"),
        (Plain, {}, "cannot be audited: ValueError: BatchNorm layer 1 has no weight and bias"),
        (Counting, {}, "buffer seen changes in training; only BatchNorm's may"),
        (OneWay, {}, "cannot be audited: "),
        (synchronised, {}, "layer 0 is SyncBatchNorm; use BatchNorm"),
        (broken, {}, "cannot be built: RuntimeError: no weights"),
        (Flat, {"depth": 3}, "model.args do not fit"),
        ("resnet", {"norm": "layer"}, "norm 'layer' is not one of batch, group, none"),
        ("resnet", {"depth": 3}, "unexpected keyword argument 'depth'"),
        (
            "vgg",
            {},
            "model.name 'vgg' is not one of mlp, resnet, resnet18, resnet50, small_cnn, vit, whitened_cnn, wide_resnet",
        ),
        ("no.such.module:f", {}, "model.name 'no.such.module:f' cannot be imported"),
        ("json:dumps", {}, "json:dumps"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_in_one_sentence(tmp_path, name, args, message):
    found = refusal(tmp_path, name, **args)
    assert message in found
    assert "\n" not in found


@pytest.mark.parametrize("name", ["resnet", "mlp"])
def test_the_models_by_name_fit_methods_that_ask_for_more(tmp_path, name):
    score = {"methods": ["gif", "gif_step", "trak"]}
    check_model(config(tmp_path, model={"name": name}, score=score), SHAPE, CLASSES)


def test_a_model_that_trak_cannot_use_is_refused_only_where_trak_is_asked_for(tmp_path):
    model = {"name": f"{__name__}:Branching"}
    check_model(config(tmp_path, model=model), SHAPE, CLASSES)
    with pytest.raises(InputError, match="cannot be audited"):
        check_model(config(tmp_path, model=model, score={"methods": ["gif", "trak"]}), SHAPE, CLASSES)


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("statistics", ["precise", "running"])
def test_a_model_of_ones_own_fits_in_every_setting_and_keeps_its_hands_off_the_global_generator(
    tmp_path, precision, statistics
):
    audit = config(
        tmp_path,
        model={"name": f"{__name__}:dropping"},
        train={"precision": precision},
        evaluation={"statistics": statistics},
    )
    before = torch.get_rng_state()
    check_model(audit, SHAPE, CLASSES)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["resnet", "vit", "mlp"])
def test_the_models_by_name_train_in_mixed_precision(tmp_path, name):
    check_model(config(tmp_path, model={"name": name}, train={"precision": "bfloat16"}), (1, 16, 16), CLASSES)


def test_a_model_that_insists_on_a_type_is_refused_in_mixed_precision_only(tmp_path):
    model = {"name": f"{__name__}:Insisting"}
    check_model(config(tmp_path, model=model), SHAPE, CLASSES)
    with pytest.raises(InputError) as refused:
        check_model(config(tmp_path, model=model, train={"precision": "bfloat16"}), SHAPE, CLASSES)
    assert str(refused.value).startswith(f"train.precision bfloat16 does not go with model.name {model['name']!r}: ")


def test_a_model_whose_draws_depend_on_the_type_is_refused_in_mixed_precision_where_steps_are_differentiated(tmp_path):
    def check(precision, method, name="Dithering"):
        model, score = {"name": f"{__name__}:{name}"}, {"methods": [method, "loss"]}
        check_model(config(tmp_path, model=model, score=score, train={"precision": precision}), SHAPE, CLASSES)

    check("float32", "replay")
    check("bfloat16", "gif")
    check("bfloat16", "replay", name="dropping")
    for method in ("replay", "gif_step"):
        with pytest.raises(InputError, match="training draws other random numbers in it"):
            check("bfloat16", method)


@pytest.mark.parametrize(
    ("frozen", "message"),
    [(["body.*"], "model.frozen 'body.*' matches no parameter"), (["*"], "model.frozen ['*'] leaves no parameter")],
)
def test_patterns_that_fit_nothing_or_everything_are_refused_in_one_sentence(tmp_path, frozen, message):
    with pytest.raises(InputError) as refused:
        check_model(config(tmp_path, model={"name": "mlp", "frozen": frozen}), SHAPE, CLASSES)
    assert str(refused.value).startswith(message)


def test_a_network_of_which_a_part_is_frozen_fits_every_method(tmp_path):
    model = {"name": "resnet", "frozen": ["0.*", "1.*"]}
    check_model(config(tmp_path, model=model, score={"methods": ["gif", "gif_step", "trak"]}), SHAPE, CLASSES)
