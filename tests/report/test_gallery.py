from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from auditor.report.gallery import gallery
from auditor.report.ranking import rank_samples
from auditor.sections.running import Report
from auditor.storage import RunFolder
from tests.report.builders import Audit, digit_like, png


def _cards(path, count=8, **settings):
    audit = Audit(**settings)
    config, run = audit.write(path)
    ranking = rank_samples(config, run)
    return audit, ranking, gallery(ranking, run, Report(gallery=count), 0.0).cards


def _first(ranking, count):
    """Places in the ranking of the samples that come first by harm or by priority."""
    places = np.argsort(-np.asarray(ranking.table["priority"]), kind="stable")
    first = {place for rank in range(len(places)) for place in (rank, int(places[rank]))}
    order = sorted(first, key=lambda place: (min(place, int(np.flatnonzero(places == place)[0])), place))
    return sorted(order[:count])


def test_each_card_shows_its_own_image_and_facts(tmp_path):
    pictures = [png(np.full((row + 1, 3), 255, dtype=np.uint8)) for row in range(40)]
    audit, ranking, cards = _cards(tmp_path, images=pictures)
    assert [card.thumbnail.height for card in cards] == (ranking.rows[[card.rank - 1 for card in cards]] + 1).tolist()
    row = ranking.rows[0]
    first = cards[0]
    assert (first.rank, first.sample_id) == (1, audit.sample_ids[row])
    assert first.label == audit.class_names[audit.label[row]]
    assert first.true_label == audit.class_names[audit.true[row]]
    assert first.agrees == (audit.label[row] == audit.scores["suggested_label"][row])
    assert first.scores == pytest.approx([audit.scores[name][row] for name in ranking.methods])
    assert first.priority == ranking.table["priority"][0].as_py()


def test_it_holds_what_comes_first_by_harm_or_by_priority_in_the_order_of_harm(tmp_path):
    _, ranking, cards = _cards(tmp_path, count=10)
    assert [card.rank - 1 for card in cards] == _first(ranking, 10)
    top = ranking.table["sample_id"][int(np.argmax(np.asarray(ranking.table["priority"])))].as_py()
    assert top in {card.sample_id for card in cards}
    assert cards[0].rank == 1


def test_a_card_has_its_rank_among_all_samples_by_every_method_and_by_priority(tmp_path):
    audit, ranking, cards = _cards(tmp_path)
    orders = {"gif": audit.scores["gif"], "loss": -audit.scores["loss"], "margin": audit.scores["margin"]}
    for card in cards:
        row = ranking.rows[card.rank - 1]
        for place, method in enumerate(("gif", "loss", "margin")):
            assert card.ranks[place] == 1 + (orders[method] < orders[method][row]).sum()
        values = np.asarray(ranking.table["priority"])
        assert (values > card.priority).sum() < card.ranks[-1] <= (values >= card.priority).sum()
    assert gallery(ranking, RunFolder(tmp_path), Report(gallery=1), 0.0).orders == (
        "gif",
        "loss",
        "margin",
        "aum",
        "priority",
    )


def test_the_verdict_that_counts_on_a_sample_is_shown_and_open_where_there_is_none(tmp_path):
    _, ranking, cards = _cards(tmp_path)
    assert {card.verdict for card in cards} == {"open"}
    one, two = cards[0].sample_id, cards[1].sample_id
    verdicts = {"sample_id": [one, two, one, "stranger"], "verdict": ["remove", "keep", "unsure", "keep"]}
    verdicts["current"] = [True, True, False, True]
    run = RunFolder(tmp_path)
    run.write_table("review/verdicts.parquet", pa.table(verdicts))
    shown = [card.verdict for card in gallery(ranking, run, Report(gallery=8), 0.0).cards]
    assert shown == ["remove", "keep", *["open"] * 6]


def test_only_row_groups_with_shown_rows_are_read(tmp_path):
    audit = Audit(rows=3000, images=[png(digit_like(0, 0))] * 3000)
    config, run = audit.write(tmp_path)
    ranking = rank_samples(config, run)

    def of(*rows):
        return replace(ranking, rows=np.array(rows, dtype=np.int32), table=ranking.table.slice(0, len(rows)))

    healthy, broken = of(5, 2100, 2101, 2999), of(5, 700)
    # Pages of the groups that hold none of these rows are broken: reading them would fail.
    table = audit.training_table()
    run.remove("dataset/train")
    run.write_table("dataset/train/part-00000.parquet", table, row_group_size=500, compression="none")
    path = run.local / "dataset/train/part-00000.parquet"
    described = pq.read_metadata(path)
    contents = bytearray(path.read_bytes())
    for group in (1, 2, 3):
        for index in range(described.num_columns):
            column = described.row_group(group).column(index)
            start = column.dictionary_page_offset or column.data_page_offset
            contents[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(contents)
    assert len(gallery(healthy, run, Report(gallery=4), 0.0).cards) == 4
    with pytest.raises(OSError, match="page header"):
        gallery(broken, run, Report(gallery=2), 0.0)


def test_more_cards_than_samples_are_not_invented(tmp_path):
    assert len(_cards(tmp_path, count=500)[2]) == 40


def test_features_are_shown_as_bars_and_first_values(tmp_path):
    features = np.random.default_rng(0).normal(size=(40, 20)).astype(np.float32)
    _, ranking, cards = _cards(tmp_path, features=features)
    assert cards[0].thumbnail is None
    assert cards[0].features == 20
    assert cards[0].bars.count("z") == 20
    np.testing.assert_allclose(cards[0].values, features[ranking.rows[0], :8])


def test_unreadable_images_leave_their_cards(tmp_path):
    _, _, cards = _cards(tmp_path, images=[None] * 40, paths=["/nowhere/one.png"] * 40)
    assert [card.thumbnail for card in cards] == [None] * 8


def test_carried_columns_stand_on_the_card_cut_to_a_line(tmp_path):
    carried = {"note": pa.array(["x" * 500] * 40), "raw": pa.array([b"123"] * 40), "none": pa.nulls(40, pa.string())}
    card = _cards(tmp_path, carried=carried)[2][0]
    shown = dict(card.carried)
    assert list(shown) == ["note", "raw"]
    assert len(shown["note"]) == 120
    assert shown["raw"] == "3 bytes"
