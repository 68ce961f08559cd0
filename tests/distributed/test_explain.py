from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest
import torch

from auditor.data import prepare
from auditor.distributed.explain import explain_on_ray, is_explained
from auditor.distributed.explain_inputs import Explaining, influence
from auditor.distributed.implicit import implicit_influence
from auditor.distributed.rounding import Rounding
from auditor.distributed.trained_run import TrainedRun
from auditor.errors import StageError
from auditor.fidelity.agreement import spearman
from auditor.fidelity.removals import Removal, plan_removals
from auditor.fidelity.verification import losses_file
from auditor.influence import Derivatives, sample_logits
from auditor.storage import RunFolder
from tests.distributed.builders import config, train_here

CPU = torch.device("cpu")
TRAIN = {"epochs": 3, "batch_size": 32, "micro_batch_size": 8, "checkpoints": 3, "precision": "float64"}
IMAGES, SAMPLES = 4, 3


def settings(run, method):
    explain = {"images": IMAGES, "samples": SAMPLES, "method": method}
    return config(run, train=TRAIN, explain=explain, score={"methods": ["gif"], "batch_size": 32})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train_here(settings(tmp_path_factory.mktemp("explain") / "run", "gif"))


def influence_of(audit, run):
    """[training rows, images] in one go."""
    explaining = Explaining(audit, run, CPU)
    trained = TrainedRun(audit, run, CPU)
    rows = np.arange(len(trained.train))
    parts = []
    for part, _ in explaining.parts():
        along = Derivatives(trained.network, part.directions)(trained.train.inputs(rows), trained.train.labels)
        shape = (len(rows), part.weights.shape[1], -1)
        parts.append(np.einsum("kp,kpz->kz", part.weights, along.numpy().reshape(shape)))
    return explaining, np.concatenate(parts, axis=1)


def test_the_images_are_the_misclassified_ones_of_the_highest_loss(run):
    audit = settings(run.path, "gif")
    images = Explaining(audit, run, CPU).images
    trained = TrainedRun(audit, run, CPU)
    point = trained.point(trained.manifest.steps)
    chunks = trained.chunks("validation")
    logits = torch.cat([sample_logits(trained.network, point, inputs) for inputs, _ in chunks])
    wrong = np.flatnonzero((logits.argmax(1) != chunks.samples.labels).numpy())
    losses = trained.validation_losses(point)
    assert images.misclassified == len(wrong) > IMAGES
    assert images.rows.tolist() == sorted(wrong, key=lambda row: -losses[row])[:IMAGES]
    assert images.sample_ids == [chunks.samples.sample_ids[row] for row in images.rows]
    assert (images.labels != images.predicted).all()
    np.testing.assert_allclose(images.losses, losses[images.rows], rtol=1e-6)


def test_ekfac_explains_one_image_as_it_scores_a_query_of_that_image_alone(run):
    audit = settings(run.path, "ekfac")
    found, values = influence_of(audit, run)
    for place, sample_id in enumerate(found.images.sample_ids[:2]):
        alone = config(
            run.path,
            train=TRAIN,
            query={"sample_ids": [sample_id]},
            score={"methods": ["ekfac"]},
            hif={"damping": audit.explain.damping},
        )
        expected = implicit_influence(alone, run, CPU).influence["ekfac"]
        np.testing.assert_allclose(values[:, place], expected, rtol=1e-5, atol=1e-9 * np.abs(expected).max())


def test_gif_takes_the_gradient_of_each_image_at_every_checkpoint(run):
    """By the definition: the change of one image's loss, in first order, when a sample's recorded gradients are left
    out one checkpoint at a time."""
    audit = settings(run.path, "gif")
    explaining, values = influence_of(audit, run)
    [(found, _)] = explaining.parts()
    assert [len(some) for some in found.directions] == [IMAGES] * 3
    first = [some[0] for some in found.directions]
    trained = TrainedRun(audit, run, CPU)
    row = 5
    total = 0.0
    for place, direction in enumerate(first):
        inputs, labels = trained.train.inputs(np.array([row])), trained.train.labels[[row]]
        loss_at = []
        for sign in (1, -1):
            moved = {
                name: value + sign * 1e-6 * direction.parameters[name]
                for name, value in direction.point.parameters.items()
            }
            statistics = {
                name: value + sign * 1e-6 * direction.statistics[name]
                for name, value in direction.point.statistics.items()
            }
            point = type(direction.point)(moved, direction.point.buffers, statistics)
            loss_at.append(
                float(torch.nn.functional.cross_entropy(sample_logits(trained.network, point, inputs), labels))
            )
        total += found.weights[row, place] * (loss_at[0] - loss_at[1]) / 2e-6
    assert values[row, 0] == pytest.approx(total, rel=1e-4)


def test_images_that_have_no_room_together_are_explained_in_parts_and_come_out_the_same(run):
    audit = settings(run.path, "gif")
    whole, together = influence_of(audit, run)
    [(all_four, _)] = whole.parts()
    tensors = [
        value for some in all_four.directions for value in (*some.parameters.values(), *some.statistics.values())
    ]
    room = sum(value.nbytes for value in tensors) * 3 / IMAGES
    explain = {**audit.explain.model_dump(), "memory_gib": room / 2**30}
    little = audit.model_copy(update={"explain": audit.explain.model_validate(explain)})
    explaining, values = influence_of(little, run)
    assert [len(part) for part, _ in explaining.parts()] == [3, 1]
    np.testing.assert_allclose(values, together, rtol=1e-9)


@pytest.mark.ray
@pytest.mark.parametrize("method", ["ekfac", "gif"])
def test_actors_name_the_samples_that_sorting_everything_would_and_judge_them_by_retrainings(run, method, ray_cluster):
    audit = settings(run.path, method)
    if method == "gif":  # in two passes over the training rows
        explain = {**audit.explain.model_dump(), "memory_gib": room_for(audit, run, IMAGES // 2)}
        audit = audit.model_copy(update={"explain": audit.explain.model_validate(explain)})
    removals = plan_removals(None, 200, 0, 6, (0.1,), 0.0, 0)
    random = np.random.default_rng(1)
    before = random.normal(size=60).astype(np.float32)
    run.write_table(losses_file(Removal("none", ())), losses_table(before))
    for removal in removals[1:]:
        run.write_table(losses_file(removal), losses_table(before + random.normal(size=60).astype(np.float32)))
    effects = {"kind": [r.kind for r in removals], "share": [r.share for r in removals]}
    left_out = [list(removal.rows) for removal in removals]
    write_effects(run, effects | {"rows": left_out})

    explain_on_ray(audit, run)
    found, values = influence_of(audit, run)
    images = run.read_table("explain/images.parquet").to_pandas()
    lines = run.read_table("explain/influence.parquet").to_pandas()
    assert images.sample_id.tolist() == found.images.sample_ids
    ids = run.read_table("dataset/train")["sample_id"].to_pylist()
    for place, sample_id in enumerate(images.sample_id):
        order = np.argsort(values[:, place], kind="stable")
        for side, rows in (("harmed", order[:SAMPLES]), ("helped", order[::-1][:SAMPLES])):
            some = lines[(lines.image == sample_id) & (lines.side == side)].sort_values("rank")
            assert some.row.tolist() == rows.tolist()
            assert some.sample_id.tolist() == [ids[row] for row in rows]
            np.testing.assert_allclose(some.influence, values[rows, place], rtol=1e-6)
        predicted = [values[list(removal.rows), place].sum() for removal in removals[1:]]
        measured = [
            run.read_table(losses_file(removal))["loss"].to_numpy()[images.row[place]] - before[images.row[place]]
            for removal in removals[1:]
        ]
        assert images.lds[place] == pytest.approx(float(spearman(np.array(predicted), np.array(measured))))
    described = run.read_json("explain/explain.json")
    assert described["settings"] == audit.explain.model_dump(mode="json")
    assert described["rounding"] is None
    assert (described["misclassified"], described["retrainings"]) == (found.images.misclassified, 6)
    assert not [name for name in run.names("", hidden=True) if name.startswith(".")]

    # It is done until something else is asked for, or there are more retrainings to judge by.
    assert is_explained(audit, run)
    assert not is_explained(settings(run.path, "gif" if method == "ekfac" else "ekfac"), run)
    write_effects(run, {name: values[:-1] for name, values in (effects | {"rows": left_out}).items()})
    assert not is_explained(audit, run)


@pytest.mark.ray
def test_passes_in_fewer_bits_explain_what_those_in_full_do_and_say_what_it_cost(tmp_path, ray_cluster):
    explain = {"images": IMAGES, "samples": SAMPLES}
    audit = config(tmp_path / "run", explain=explain, score={"methods": ["gif"], "precision": "bfloat16"})
    run = train_here(audit)
    explaining = Explaining(audit, run, CPU)
    [(part, lost)] = explaining.parts()
    assert part.dtype == torch.bfloat16
    assert lost.keys() == set(explaining.images.sample_ids)
    assert all(each.good_enough and each.rows == 200 for each in lost.values())
    rows = np.arange(200)
    given = explaining._trained.train.inputs(rows), explaining._trained.train.labels
    few, full = (
        influence(part.weights, Derivatives(explaining._trained.network, part.directions, dtype=dtype)(*given).numpy())
        for dtype in (torch.bfloat16, None)
    )
    off = np.sqrt(((few - full) ** 2).mean(axis=0) / (full**2).mean(axis=0))
    np.testing.assert_allclose([each.typical for each in lost.values()], off, rtol=1e-5)

    explain_on_ray(audit, run)
    assert run.read_json("explain/explain.json")["rounding"] == pytest.approx(
        {"images": IMAGES} | asdict(Rounding.worst(lost.values()))
    )
    lines = run.read_table("explain/influence.parquet").to_pandas()
    for place, sample_id in enumerate(explaining.images.sample_ids):
        some = lines[(lines.image == sample_id) & (lines.side == "harmed")].sort_values("rank")
        scale = np.abs(full[:, place]).max()
        np.testing.assert_allclose(some.influence, full[some.row, place], atol=0.02 * scale)
        np.testing.assert_allclose(some.influence, np.sort(full[:, place])[:SAMPLES], atol=0.02 * scale)


@pytest.mark.ray
def test_before_the_end_of_training_there_is_nothing_to_explain(tmp_path, ray_cluster):
    audit = settings(tmp_path, "ekfac")
    prepare(audit, RunFolder(tmp_path))
    with pytest.raises(StageError, match="train first"):
        explain_on_ray(audit, RunFolder(tmp_path))


def room_for(audit, run, images):
    """GiB that the directions of some images take."""
    [(part, _)] = Explaining(audit, run, CPU).parts()
    tensors = [tensors for some in part.directions for tensors in (some.parameters, some.statistics)]
    return sum(value.nbytes for named in tensors for value in named.values()) * images / IMAGES / 2**30


def losses_table(losses):
    return pa.table({"loss": losses})


def write_effects(run, columns):
    rows = pa.array(columns["rows"], pa.list_(pa.int32()))
    run.write_table("verify/effects.parquet", pa.table({**columns, "rows": rows}))
