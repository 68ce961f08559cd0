from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from auditor.methods import METHODS
from auditor.report.detection import detect
from auditor.report.ranking import rank_samples
from auditor.report.summary import caveat, summarise, verdict
from auditor.storage import RunFolder
from tests.report.builders import Audit, write_verification


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
        "comparison",
    ]
    assert value["rows"] == 40
    assert value["flagged"] == int(ranking.flagged.sum())
    assert value["test_accuracy"] == 0.9375
    assert value["seconds"] == {"prepare": 1.5, "train": 20.25, "score": 4.0}
    assert set(value["detection"]) == {"gif", "loss", "margin", "aum", "priority"}
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


def test_what_fewer_bits_cost_is_said(tmp_path):
    _, ranking, summary = _summary(tmp_path)
    assert "fewer bits" not in " ".join(verdict(summary))
    run = RunFolder(str(tmp_path))
    lost = {"rows": 30, "largest": 0.02, "typical": 0.004, "rank": 0.99987}
    worse = lost | {"typical": 0.0061, "rank": 0.9996}
    run.write_json("evaluation.json", run.read_json("evaluation.json") | {"rounding": {"gif": lost, "tracin": worse}})
    assert (
        "Computed in fewer bits than the parameters have: gif, tracin. Over 30 samples that moved them by 0.6% "
        "and kept the ranks (correlation 0.99960)."
    ) in verdict(summarise(ranking, {}, run))


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


def _verified(path, effect=None, **settings):
    """The summary of an audit whose retrainings did what gif predicted, unless an effect [rows] is given."""
    audit = Audit(**settings)
    config, run = audit.write(path)
    found = write_verification(audit, run, audit.scores["gif"] if effect is None else effect, drop_rates=(0.05, 0.2))
    ranking = rank_samples(config, run)
    return audit, found, summarise(ranking, detect(ranking), run)


def test_fidelity_in_json_has_the_fields_of_the_contract_for_every_method(tmp_path):
    _, found, summary = _verified(tmp_path, variants={"gif@3": np.ones(40)})
    fidelity = json.loads(json.dumps(summary.to_json(), allow_nan=False))["fidelity"]
    assert list(fidelity) == ["gif", "loss", "margin", "aum", "auto"]
    numbers = ["loo_pearson", "loo_spearman", "slope", "lds", "lds@0.2"]
    for name, block in fidelity.items():
        assert list(block) == [*numbers, "intervals", "retrainings", "column"]
        judged = found.methods[name]
        statistics = [judged.loo_pearson, judged.loo_spearman, judged.slope, judged.lds["0.05"], judged.lds["0.2"]]
        for number, statistic in zip(numbers, statistics, strict=True):
            assert block[number] == (None if statistic is None else statistic.value)
            assert block["intervals"].get(number) == (None if statistic is None else [statistic.low, statistic.high])
        assert block["retrainings"] == judged.retrainings
    # Nothing beside gif predicts, so that nothing had to be chosen for auto but its variant.
    assert fidelity["gif"]["column"] == fidelity["auto"]["column"] == "gif"
    assert [fidelity["gif"][number] for number in numbers] == pytest.approx([1.0] * 5)
    assert fidelity["loss"]["slope"] is None
    assert (fidelity["auto"]["retrainings"], fidelity["loss"]["retrainings"]) == (36, 72)


def test_fidelity_in_json_names_the_variant_that_stands_for_its_method(tmp_path):
    variant = np.random.default_rng(3).normal(size=40)
    _, _, summary = _verified(tmp_path, effect=variant, variants={"gif@3": variant})
    assert summary.to_json()["fidelity"]["gif"]["column"] == "gif@3"
    assert summary.to_json()["fidelity"]["gif"]["loo_pearson"] == pytest.approx(1.0)


def test_without_a_half_that_chooses_nothing_is_reported_as_if_it_were_sure(tmp_path):
    audit = Audit()
    config, run = audit.write(tmp_path)
    write_verification(audit, run, audit.scores["gif"], ones=2, subsets=0)
    ranking = rank_samples(config, run)
    summary = summarise(ranking, detect(ranking), run)
    block = summary.to_json()["fidelity"]["gif"]
    assert (block["loo_pearson"], block["slope"], block["lds"], block["intervals"]) == (None, None, None, {})
    assert "How far to trust" not in " ".join(verdict(summary))


def test_the_verdict_says_what_retrainings_found_right_after_what_was_predicted(tmp_path):
    audit, found, summary = _verified(tmp_path)
    flagged, predicted, checked, trust, *_ = verdict(summary)
    assert "are flagged" in flagged
    assert "predicted to lower validation loss" in predicted
    fell = audit.scores["gif"][audit.scores["gif"] < 0]
    fell = np.sort(fell)[: found.harmful.samples].sum()
    assert checked == (
        f"Checked by training again without the {found.harmful.samples} samples that gif calls most harmful: the loss "
        f"fell from 0.5 to {0.5 + fell:.3g}; {0.5 + fell:.3g} was predicted."
    )
    assert trust.startswith("How far to trust the scores, by 36 real retrainings: leaving out single samples")
    assert "measured sizes being 1.00 times the predicted" in trust
    assert "leaving out random 5% of the samples, ranks correlate 1.00 (95% interval 1.00 to 1.00)" in trust
    assert "leaving out random 20% of the samples" in trust


def test_the_verdict_does_not_hide_that_a_removal_did_the_opposite(tmp_path):
    audit = Audit()
    _, _, summary = _verified(tmp_path, effect=-audit.scores["gif"])
    text = " ".join(verdict(summary))
    assert "the loss rose from 0.5" in text
    assert "correlate -1.00" in text


@pytest.mark.parametrize("method", ["gif", "replay", "hif_full"])
def test_no_caveat_calls_a_verified_run_unverified(tmp_path, method):
    _, _, before = _summary(tmp_path / "before")
    _, _, after = _verified(tmp_path / "after")
    said = [caveat(dataclasses.replace(summary, rank_by=method, predictability=2.0)) for summary in (before, after)]
    unverified = "In this run it has not been compared with real retrainings."
    assert unverified in said[0]
    assert "compared with real retrainings" not in said[1]
    assert said[1] == " ".join(said[0].replace(unverified, "").split())
    assert not [sentence for sentence in verdict(before) if "retrainings" in sentence or "training again" in sentence]
