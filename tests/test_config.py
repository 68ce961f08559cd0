from __future__ import annotations

import re
import typing

import pytest
import yaml
from pydantic import BaseModel

from auditor.config import Config, differences, flatten, load_config, parse_config
from auditor.errors import InputError
from auditor.sam import Perturbation, make_perturbation

LEAST = {"run": "runs/a", "data": {"source": {"kind": "digits"}}}
VARIANTS = {
    "sam": ("p", 3.0),
    "asam": ("eta", 0.2),
    "gsam": ("alpha", 0.3),
    "sparse_sam": ("density", 0.4),
    "obf": ("threshold", 0.2),
}
"""A setting of its own of each variant of SAM."""
SOURCES = {
    "digits": {},
    "parquet": {"train": "a.parquet"},
    "folder": {"train": "a"},
    "torchvision": {"dataset": "MNIST", "train": {}},
}


def written(tmp_path, raw):
    path = tmp_path / "audit.yaml"
    path.write_text(raw if isinstance(raw, str) else yaml.safe_dump(raw))
    return path


def with_(**sections):
    return {**LEAST, **sections}


def refusal(raw):
    with pytest.raises(InputError) as refused:
        parse_config(raw)
    return str(refused.value).removeprefix("configuration: ")


def sections(model=Config, prefix=""):
    """Every section's class with the dotted prefix of its keys, branches of unions included."""
    yield prefix, model
    for name, field in model.model_fields.items():
        annotation = field.annotation
        for branch in typing.get_args(annotation) or (annotation,):
            if isinstance(branch, type) and issubclass(branch, BaseModel):
                yield from sections(branch, f"{prefix}{name}.")


def test_two_keys_make_an_audit():
    config = parse_config(LEAST)
    assert config.run == "runs/a"
    assert config.data.source.kind == "digits"
    assert config.train.batch_size % config.train.micro_batch_size == 0


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (with_(trian={}), "unknown key trian"),
        (with_(train={"optimizer": {"lr": 1}}), "unknown key train.optimizer.lr"),
        ({"data": LEAST["data"]}, "run is missing"),
        ({"run": "a", "data": {}}, "data.source is missing"),
        (with_(train={"epochs": 0}), "train.epochs is 0: input should be greater than or equal to 1"),
        (with_(train={"epochs": "many"}), "train.epochs is 'many': input should be a valid integer"),
        (with_(train=5), "train is 5: input should be a valid dictionary"),
        (with_(model={"name": None}), "model.name is None: input should be a valid string"),
        (with_(score={"methods": ["gif", "guess"]}), "score.methods.1 is 'guess': expected one of replay, "),
        (with_(score={"methods": []}), "score.methods is []: list should have at least 1 item"),
        (with_(data={**LEAST["data"], "image_size": [8]}), "data.image_size.1 is missing"),
    ],
)
def test_a_refusal_names_the_key_the_value_and_what_was_expected(raw, message):
    assert refusal(raw).startswith(message)


def test_all_problems_are_named_at_once():
    message = refusal({"data": LEAST["data"], "sed": 1, "train": {"epochs": -1}})
    assert set(re.split("; ", message)) == {
        "run is missing",
        "unknown key sed",
        "train.epochs is -1: input should be greater than or equal to 1",
    }


@pytest.mark.parametrize("kind", SOURCES)
def test_a_source_is_refused_by_its_key_not_by_its_branch_of_the_union(kind):
    source = {"kind": kind, **SOURCES[kind]}
    assert refusal(with_(data={"source": {**source, "colour": 1}})) == "unknown key data.source.colour"


def test_a_missing_key_of_a_source_is_named():
    assert refusal(with_(data={"source": {"kind": "parquet"}})) == "data.source.train is missing"


def test_an_unknown_kind_of_source_is_refused_with_the_kinds_there_are():
    message = refusal(with_(data={"source": {"kind": "csv"}}))
    assert message.startswith("data.source: ")
    assert all(kind in message for kind in ("csv", *SOURCES))
    assert refusal(with_(data={"source": {}})).startswith("data.source: ")


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_takes_its_own_settings_and_no_others(name):
    for variant, (key, value) in VARIANTS.items():
        raw = with_(train={"perturbation": {"name": name, "rho": 0.1, key: value}})
        if variant == name:
            assert getattr(parse_config(raw).train.perturbation, key) == value
        else:
            assert refusal(raw) == f"unknown key train.perturbation.{key}"


def test_a_perturbation_without_a_name_is_plain_sam():
    perturbation = parse_config(with_(train={"perturbation": {"rho": 0.2}})).train.perturbation
    assert perturbation.model_dump() == {"name": "sam", "rho": 0.2, "p": 2.0}
    assert parse_config(LEAST).train.perturbation.name == "sam"


def test_an_unknown_variant_is_refused_with_the_variants_there_are():
    message = refusal(with_(train={"perturbation": {"name": "flat"}}))
    assert message.startswith("train.perturbation: ")
    assert all(name in message for name in ("flat", *VARIANTS))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variants_defaults_make_it(name):
    """What the manifest keeps is what makes the variant again."""
    config = parse_config(with_(train={"perturbation": {"name": name}}))
    assert isinstance(make_perturbation(**config.train.perturbation.model_dump()), Perturbation)


@pytest.mark.parametrize("key", ["folder", "digits", "parquet", "torchvision"])
def test_a_key_that_is_called_like_a_kind_of_source_keeps_its_name(key):
    assert refusal(with_(**{key: 1})) == f"unknown key {key}"
    assert refusal(with_(mlflow={key: 1})) == f"unknown key mlflow.{key}"
    assert refusal(with_(data={"source": {"kind": "digits", key: 1}})) == f"unknown key data.source.{key}"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (with_(train={"batch_size": 100, "micro_batch_size": 64}), "train: micro_batch_size 64 does not divide"),
        (
            with_(train={"precision": "bfloat16"}, resources={"sharded": True, "train_workers": 2}),
            "resources.sharded does not go with train.precision bfloat16",
        ),
        (
            with_(train={"precision": "bfloat16", "perturbation": {"name": "reweighted_sam"}}),
            "train: precision bfloat16 does not go with perturbation reweighted_sam",
        ),
        (
            with_(score={"methods": ["loss"]}, report={"rank_by": "gif"}),
            "report.rank_by is gif, which is not among score.methods",
        ),
        (
            with_(score={"methods": ["loss"], "ablation": True}, report={"rank_by": "loss"}),
            "score: ablation is of gif, which is not among methods",
        ),
        (
            with_(score={"methods": ["hif", "gif"]}, hif={"solver": "cg"}),
            "hif.solver is cg, which solves symmetric systems, and that of hif in score.methods is not",
        ),
    ],
)
def test_keys_that_do_not_fit_together_are_refused(raw, message):
    assert refusal(raw).startswith(message)


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        parse_config(LEAST).seed = 3


@pytest.mark.parametrize(("prefix", "section"), [pytest.param(*pair, id=pair[1].__name__) for pair in sections()])
def test_every_section_and_every_field_has_a_help_text(prefix, section):
    assert section.__doc__
    for name, field in section.model_fields.items():
        # What tells the branches of a union apart is explained by each branch's own help text.
        tag = typing.get_origin(field.annotation) is typing.Literal and len(typing.get_args(field.annotation)) == 1
        assert field.description or tag, f"{prefix}{name}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: [", "is not YAML"),
        ("- run", "expected keys and values at the top level"),
        ("", "expected keys and values at the top level"),
        ("run: a\x00b", "is not YAML"),
    ],
)
def test_a_file_that_holds_no_mapping_is_refused_by_name(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: {message}") as refused:
        load_config(path)
    assert "\n" not in str(refused.value)


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read \(No such file or directory\)"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        load_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("run: Füße".encode("latin-1"))
    with pytest.raises(InputError, match="is not YAML"):
        load_config(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("train.epochs=9", "train.epochs", 9),
        ("train.optimizer.learning_rate=1e-3", "train.optimizer.learning_rate", 0.001),
        ("train.optimizer.nesterov=true", "train.optimizer.nesterov", True),
        ("score.methods=[gif, loss]", "score.methods", ["gif", "loss"]),
        ("data.image_size=[8, 16]", "data.image_size", [8, 16]),
        ("mlflow.run_name=a=b", "mlflow.run_name", "a=b"),
        ("mlflow.run_name='7'", "mlflow.run_name", "7"),
        ("data.limit.train=null", "data.limit.train", None),
        ("model.args={widths: [4]}", "model.args.widths", [4]),
        ("model.args.widths=[4]", "model.args.widths", [4]),
        ("data.columns.label=human", "data.columns.label", "human"),
    ],
)
def test_an_override_is_yaml_and_creates_the_sections_it_needs(tmp_path, override, key, value):
    path = written(tmp_path, {**LEAST, "data": {**LEAST["data"], "limit": {"train": 5}, "columns": None}})
    assert flatten(load_config(path, [override, "data.columns.image=i"]))[key] == value


def test_the_last_override_and_the_run_folder_given_apart_win(tmp_path):
    path = written(tmp_path, LEAST)
    config = load_config(path, ["seed=1", "seed=2", "run=elsewhere"], run="runs/b")
    assert (config.seed, config.run) == (2, "runs/b")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs", "--set train.epochs: expected key.path=value"),
        ("=3", "--set =3: expected key.path=value"),
        ("run.name=x", "--set run.name=x: run is a value, not a section"),
        ("seed=[", "--set seed=[: the value is not YAML"),
        ("train.epoch=3", "unknown key train.epoch"),
        ("train..epochs=3", "unknown key train."),
    ],
)
def test_an_override_that_cannot_be_used_is_named(tmp_path, override, message):
    with pytest.raises(InputError, match=re.escape(message)):
        load_config(written(tmp_path, LEAST), [override])


def test_differences_name_each_changed_key_with_both_values():
    old = parse_config(with_(train={"epochs": 30}, model={"args": {"widths": [8]}}))
    new = parse_config(with_(train={"epochs": 40}, model={"args": {"blocks": 2}}, seed=1))
    assert differences(old, new) == [
        "model.args.blocks: absent → 2",
        "model.args.widths: [8] → absent",
        "seed: 0 → 1",
        "train.epochs: 30 → 40",
    ]
    assert differences(old, old) == []


def test_what_changes_no_result_may_differ():
    new = with_(
        run="elsewhere",
        resources={"train_workers": 7},
        mlflow={"experiment": "other"},
        report={"flagged": 0.1},
        data={"source": {"kind": "digits"}, "cache_gib": 1.0},
        evaluation={"batch_size": 8},
        score={"batch_size": 8},
        replay={"memory_gib": 0.5},
    )
    assert differences(parse_config(LEAST), parse_config(new)) == []


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("seed=1", "seed: 0 → 1"),
        ("data.label_noise=0.1", "data.label_noise: 0.0 → 0.1"),
        ("model.name=mlp", "model.name: resnet → mlp"),
        ("model.weights=predecessor", "model.weights: None → predecessor"),
        ("model.frozen=['0.*']", "model.frozen: [] → ['0.*']"),
        ("train.precision=float64", "train.precision: float32 → float64"),
        ("evaluation.statistics=running", "evaluation.statistics: precise → running"),
        ("score.checkpoints=3", "score.checkpoints: None → 3"),
    ],
)
def test_every_other_section_makes_a_difference(tmp_path, override, line):
    assert differences(parse_config(LEAST), load_config(written(tmp_path, LEAST), [override])) == [line]


def test_a_run_folders_own_configuration_can_be_given_again(tmp_path):
    config = parse_config(with_(model={"args": {"widths": [4]}}, data={"source": {"kind": "parquet", "train": "t"}}))
    kept = {**config.model_dump(mode="json"), "versions": {"auditor": "0.1.0"}, "revision": "abc"}
    assert load_config(written(tmp_path, kept)) == config


def test_flatten_gives_every_setting_a_dotted_key():
    flat = flatten(parse_config(with_(model={"args": {"widths": [4]}})))
    assert flat["train.optimizer.momentum"] == 0.9
    assert flat["model.args.widths"] == [4]
    assert not any(isinstance(value, dict) and value for value in flat.values())
