from __future__ import annotations

import dataclasses
import json

import pytest

from auditor.methods import METHODS
from auditor.report.detection import detect
from auditor.report.ranking import rank_samples
from auditor.report.summary import caveat, summarise, verdict
from auditor.storage import RunFolder
from tests.report.builders import Audit


def _summary(path, **settings):
    audit = Audit(**settings)
    config, run = audit.write(path)
    ranking = rank_samples(config, run)
    return audit, ranking, summarise(ranking, detect(ranking), run)


def test_json_has_exactly_the_documented_fields(tmp_path):
    _, ranking, summary = _summary(tmp_path)
    value = json.loads(json.dumps(summary.to_json(), allow_nan=False))
    assert list(value) == [
        *("rows", "flagged", "test_accuracy", "validation_loss", "seconds", "detection", "fidelity", "predictability"),
    ]
    assert value["rows"] == 40
    assert value["flagged"] == int(ranking.flagged.sum())
    assert value["test_accuracy"] == 0.9375
    assert value["seconds"] == {"prepare": 1.5, "train": 20.25, "score": 4.0}
    assert set(value["detection"]) == {"gif", "loss", "margin", "aum"}
    assert list(value["detection"]["gif"]) == ["auroc", "average_precision", "found"]
    assert list(value["detection"]["gif"]["found"]) == ["0.01", "0.05", "0.1", "0.2", "0.4"]
    assert value["fidelity"] is None
    assert value["predictability"] is None


def test_counts_agree_with_the_data(tmp_path):
    audit, ranking, summary = _summary(tmp_path)
    flagged = ranking.rows[ranking.flagged]
    assert summary.predicted_effect == pytest.approx(-audit.scores["gif"][flagged].sum())
    assert summary.wrong == audit.wrong.sum()
    assert summary.flagged_wrong == audit.wrong[flagged].sum()
    assert summary.disagreeing == (audit.scores["suggested_label"][flagged] != audit.label[flagged]).sum()
    assert [sample.rank for sample in summary.top] == list(range(1, 11))
    assert summary.top[0].sample_id == audit.sample_ids[ranking.rows[0]]


def test_the_verdict_says_what_removal_is_predicted_to_do(tmp_path):
    _, _, summary = _summary(tmp_path)
    text = " ".join(verdict(summary))
    assert text.startswith(f"{summary.flagged} of 40 training samples ({summary.flagged / 40:.1%}) are flagged.")
    assert f"lower validation loss by {summary.predicted_effect:.3g}" in text
    assert f"{summary.flagged_wrong} of the flagged labels" in text
    assert "93.8% of the test set" in text


def test_a_prediction_beyond_the_loss_itself_is_called_so(tmp_path):
    audit = Audit()
    audit.scores["gif"] = audit.scores["gif"] * 1000
    config, run = audit.write(tmp_path)
    ranking = rank_samples(config, run)
    assert "cannot be taken literally" in " ".join(verdict(summarise(ranking, {}, run)))


def test_a_detector_predicts_no_effect(tmp_path):
    _, _, summary = _summary(tmp_path, rank_by="margin")
    assert summary.predicted_effect is None
    text = " ".join(verdict(summary))
    assert "predicts no effect" in text
    assert "lower validation loss" not in text


def test_nothing_flagged_and_no_truth(tmp_path):
    audit = Audit(truth=False)
    audit.scores["gif"] = abs(audit.scores["gif"])
    config, run = audit.write(tmp_path)
    ranking = rank_samples(config, run)
    summary = summarise(ranking, detect(ranking), run)
    text = " ".join(verdict(summary))
    assert "None of the 40 training samples is flagged." in text
    assert "truth" not in text
    assert summary.to_json()["detection"] == {}


def test_a_run_without_test_rows_or_stage_times(tmp_path):
    config, run = Audit().write(tmp_path)
    run.remove("stages.json")
    evaluation = run.read_json("evaluation.json")
    run.write_json("evaluation.json", {**evaluation, "test_accuracy": None})
    ranking = rank_samples(config, run)
    summary = summarise(ranking, {}, run)
    assert summary.test_accuracy is None
    assert summary.seconds == {}
    assert "test set" not in " ".join(verdict(summary))


def test_every_predicting_method_says_how_far_it_can_be_trusted_and_detectors_predict_nothing(tmp_path):
    _, _, summary = _summary(tmp_path)
    assert "Trust the order, not the amounts." in caveat(summary)
    for method in METHODS.values():
        said = caveat(dataclasses.replace(summary, rank_by=method.name))
        assert ("not been compared with real retrainings" in said) if method.predicts else said is None
    calm = caveat(dataclasses.replace(summary, rank_by="replay", predictability=1.73))
    assert "grew 1.7-fold through this training, which is calm" in calm
    wild = caveat(dataclasses.replace(summary, rank_by="replay", predictability=35.0))
    assert "too chaotic" in wild
    assert "35-fold" in wild
    assert all("not been compared with real retrainings" in text for text in (caveat(summary), calm, wild))


def test_predictability_is_that_of_the_replay(tmp_path):
    _, ranking, summary = _summary(tmp_path)
    assert summary.to_json()["predictability"] is None
    run = RunFolder(tmp_path)
    run.write_json("replay/replay.json", {"first_step": 0, "predictability": 2.5, "drift": {"8": 0.0}})
    assert summarise(ranking, detect(ranking), run).to_json()["predictability"] == 2.5


def test_a_querys_loss_is_named_and_compared_with_itself(tmp_path):
    _, _, summary = _summary(tmp_path, query="the loss on validation samples of class one")
    text = " ".join(verdict(summary))
    assert "predicted to lower the loss on validation samples of class one by" in text
    assert "from 0.75 now" in text
    assert "validation loss" not in text


@pytest.mark.parametrize("method", ["gif_step", "tracin", "trak"])
def test_every_influence_of_a_baseline_has_its_caveat(tmp_path, method):
    _, _, summary = _summary(tmp_path)
    assert "compared with real retrainings" in caveat(dataclasses.replace(summary, rank_by=method))
