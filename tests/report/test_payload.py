from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from auditor.report.gallery import gallery
from auditor.report.payload import effect, payload, values
from auditor.report.ranking import rank_samples
from auditor.sections.running import Report
from tests.report.builders import Audit


def _gallery(path, **settings):
    config, run = Audit(**settings).write(path)
    return gallery(rank_samples(config, run), run, Report(gallery=8), 0.0)


def test_every_column_holds_every_sample_and_survives_json(tmp_path):
    found = _gallery(tmp_path)
    data = json.loads(json.dumps(payload(found), allow_nan=False))
    assert data["orders"] == ["gif", "loss", "margin", "aum", "priority"]
    assert data["classes"] == ["zero", "one", "two", "three"]
    assert (data["rankBy"], data["predicts"]) == ("gif", True)
    samples = data["samples"]
    assert {len(column) for column in samples.values()} == {8}
    for at, card in enumerate(found.cards):
        assert samples["id"][at] == card.sample_id
        assert data["classes"][samples["given"][at]] == card.label
        assert data["classes"][samples["suggested"][at]] == card.suggested_label
        assert samples["truth"][at] == card.true_label
        assert samples["ranks"][at] == list(card.ranks)
        assert samples["image"][at] == card.thumbnail.uri
        assert samples["size"][at] == "8 × 8"


@pytest.mark.parametrize(
    ("harm", "predicts", "said"),
    [
        (0.00314159, True, "loss falls 0.00314"),
        (-2e-7, True, "loss rises 2e−07"),
        (0.0, True, "loss stays"),
        (-1.5, False, "−1.5"),
    ],
)
def test_an_effect_says_what_the_loss_does_and_a_suspicion_is_a_number(tmp_path, harm, predicts, said):
    card = _gallery(tmp_path).cards[0]
    assert effect(replace(card, harm=harm), predicts) == said


def test_features_show_their_first_values_and_how_many_there_are(tmp_path):
    features = np.tile(np.arange(20, dtype=np.float32), (40, 1))
    card = _gallery(tmp_path, features=features).cards[0]
    assert values(card) == "0, 1, 2, 3, 4, 5, 6, 7, … (20 values)"
    assert values(replace(card, features=8)) == "0, 1, 2, 3, 4, 5, 6, 7"
