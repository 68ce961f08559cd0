from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.errors import StageError
from auditor.fidelity.removals import share_count
from auditor.methods import harm
from auditor.report.ranking import harm_order, rank_samples
from tests.report.builders import Audit, write_verification


@pytest.mark.parametrize(
    ("method", "worse", "better"),
    [
        *(("gif", -1, 1), ("gif@3", -1, 1), ("trak", -1, 1), ("tracin", -1, 1), ("gif_step", -1, 1)),
        *(
            ("loss", 5, 0.1),
            ("margin", -3, 4),
            ("aum", -3, 4),
            ("aum_late", -3, 4),
            ("aum_perturbed", -3, 4),
            ("self_confidence", 0.1, 0.9),
        ),
    ],
)
def test_a_worse_sample_has_more_harm(method, worse, better):
    bad, good = harm(method, np.array([worse, better], dtype=np.float32))
    assert bad > good


def test_a_label_is_suspicious_below_half_of_the_confidence():
    np.testing.assert_allclose(harm("self_confidence", np.array([0.25, 0.5, 1.0])), [0.25, 0.0, -0.5])


def test_harm_of_a_zero_influence_is_a_plain_zero():
    assert not np.signbit(harm("gif", np.array([0.0, -0.0]))).any()


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.randoms())
@settings(max_examples=50, deadline=None)
def test_order_falls_breaks_ties_by_id_and_ignores_the_order_of_rows(values, random):
    rows = [(value, f"id-{index:03d}") for index, value in enumerate(values)]
    expected = sorted(rows, key=lambda row: (-row[0], row[1]))
    random.shuffle(rows)
    order = harm_order(np.array([row[0] for row in rows], dtype=float), pa.array([row[1] for row in rows]))
    assert [rows[index] for index in order] == expected


@pytest.mark.parametrize(
    ("share", "rows", "count"), [(0.07, 100, 7), (0.05, 1257, 63), (0.1, 30, 3), (1, 9, 9), (0.01, 3, 1)]
)
def test_share_count_rounds_up_what_is_not_whole_and_nothing_else(share, rows, count):
    assert share_count(share, rows) == count


def test_the_table_holds_each_sample_once_the_most_harmful_first(written):
    audit, config, run = written
    ranking = rank_samples(config, run)
    table = ranking.table
    assert table.column_names == [
        *("rank", "sample_id", "label", "suggested_label", "suggested_probability", "harm", "priority"),
        *("flagged", "gif", "loss", "margin", "aum", "true_label"),
    ]
    assert table["rank"].to_pylist() == list(range(1, audit.rows + 1))
    assert sorted(table["sample_id"].to_pylist()) == sorted(audit.sample_ids)
    assert np.all(np.diff(np.asarray(table["harm"])) <= 0)
    row = ranking.rows
    np.testing.assert_array_equal(np.asarray(table["gif"]), audit.scores["gif"][row])
    np.testing.assert_array_equal(np.asarray(table["harm"]), -audit.scores["gif"][row])
    np.testing.assert_array_equal(np.asarray(table["aum"]), audit.scores["aum"][row])
    assert table["label"].to_pylist() == [audit.class_names[label] for label in audit.label[row]]
    assert table["true_label"].to_pylist() == [audit.class_names[label] for label in audit.true[row]]
    suggested = [audit.class_names[label] for label in audit.scores["suggested_label"][row]]
    assert table["suggested_label"].to_pylist() == suggested
    np.testing.assert_array_equal(ranking.wrong, audit.wrong[row])


def test_only_predicted_harm_is_flagged_and_only_up_to_the_share(tmp_path):
    audit = Audit(rows=40, flagged=0.2)
    audit.scores["gif"] = np.where(np.arange(40) < 5, -1.0, 1.0)
    few = rank_samples(*audit.write(tmp_path / "few"))
    assert few.flagged.tolist() == [True] * 5 + [False] * 35
    audit.scores["gif"] = np.where(np.arange(40) < 15, -1.0, 1.0)
    many = rank_samples(*audit.write(tmp_path / "many"))
    assert many.flagged.tolist() == [True] * 8 + [False] * 32


def test_loss_flags_the_first_share(tmp_path):
    ranking = rank_samples(*Audit(rank_by="loss", flagged=0.25).write(tmp_path))
    assert ranking.flagged.tolist() == [True] * 10 + [False] * 30


def test_ranks_by_the_configured_method_and_keeps_to_the_scored_ones(tmp_path):
    audit = Audit(methods=("loss", "aum"), rank_by="aum")
    ranking = rank_samples(*audit.write(tmp_path))
    assert ranking.methods == ("loss", "aum")
    np.testing.assert_array_equal(ranking.rows, np.lexsort((np.arange(40), audit.scores["aum"])))


def _noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=40)


def test_auto_without_retrainings_is_the_first_method_that_predicts_or_else_the_first(tmp_path):
    influences = Audit(methods=("loss", "gif", "aum"), rank_by="auto")
    ranking = rank_samples(*influences.write(tmp_path / "influences"))
    assert ranking.rank_by == "gif"
    np.testing.assert_array_equal(np.asarray(ranking.table["harm"]), -influences.scores["gif"][ranking.rows])
    assert rank_samples(*Audit(methods=("aum", "loss"), rank_by="auto").write(tmp_path / "detectors")).rank_by == "loss"


def test_auto_is_the_method_that_retrainings_agree_with_and_a_method_by_name_stays(tmp_path):
    audit = Audit(methods=("replay", "gif", "loss"), rank_by="auto")
    audit.scores["replay"] = _noise(1)
    config, run = audit.write(tmp_path)
    assert rank_samples(config, run).rank_by == "replay"
    write_verification(audit, run, effect=audit.scores["gif"])
    ranking = rank_samples(config, run)
    assert ranking.rank_by == "gif"
    np.testing.assert_array_equal(np.asarray(ranking.table["harm"]), -audit.scores["gif"][ranking.rows])
    audit.rank_by = "replay"
    assert rank_samples(audit.config(tmp_path), run).rank_by == "replay"


@pytest.mark.parametrize("verified", [True, False])
def test_a_variant_stands_for_its_method_where_retrainings_chose_it_and_is_never_listed_by_itself(tmp_path, verified):
    audit = Audit(methods=("gif", "loss"), rank_by="gif", variants={"gif@3": _noise(1), "gif@5": _noise(2)})
    config, run = audit.write(tmp_path)
    if verified:
        write_verification(audit, run, effect=audit.variants["gif@3"])
    ranking = rank_samples(config, run)
    expected = audit.variants["gif@3"] if verified else audit.scores["gif"]
    assert (ranking.rank_by, ranking.methods) == ("gif", ("gif", "loss"))
    assert ranking.standing == {"gif": "gif@3" if verified else "gif", "loss": "loss"}
    assert not [name for name in ranking.table.column_names if "@" in name]
    np.testing.assert_array_equal(np.asarray(ranking.table["gif"]), expected[ranking.rows])
    np.testing.assert_array_equal(np.asarray(ranking.table["harm"]), -expected[ranking.rows])


def test_a_variant_that_is_not_finite_stops_the_stage_even_where_it_stands_for_nothing(tmp_path):
    audit = Audit(variants={"gif@3": np.where(np.arange(40) == 3, np.nan, 0.0)})
    with pytest.raises(StageError, match="gif@3 of sample 'sample-00003'"):
        rank_samples(*audit.write(tmp_path))


def test_an_unknown_truth_is_null_and_never_counts_as_wrong(tmp_path):
    audit = Audit()
    config, run = audit.write(tmp_path)
    table = audit.training_table()
    truth = pa.array(audit.true, mask=np.arange(40) < 10)
    table = table.set_column(table.column_names.index("true_label"), "true_label", truth)
    run.remove("dataset/train")
    run.write_table("dataset/train/part-00000.parquet", table)
    ranking = rank_samples(config, run)
    assert ranking.table["true_label"].null_count == 10
    np.testing.assert_array_equal(ranking.wrong, audit.wrong[ranking.rows] & (ranking.rows >= 10))


def test_without_truth_there_is_no_column_of_it(tmp_path):
    ranking = rank_samples(*Audit(truth=False).write(tmp_path))
    assert ranking.wrong is None
    assert "true_label" not in ranking.table.column_names


def test_carried_columns_follow_their_sample_and_never_replace_a_column_of_the_table(tmp_path):
    carried = {
        "batch": pa.array([f"b{row}" for row in range(40)]),
        "loss": pa.array(range(40)),
        "true_label2": pa.array([[1]] * 40),
    }
    ranking = rank_samples(*Audit(carried=carried).write(tmp_path))
    assert ranking.carried == ("batch", "source_loss", "true_label2")
    assert ranking.table["batch"].to_pylist() == [f"b{row}" for row in ranking.rows]
    assert ranking.table["source_loss"].to_pylist() == ranking.rows.tolist()


def _with(table: pa.Table, column: str, row: int, value: object) -> pa.Table:
    values = table[column].to_pylist()
    values[row] = value
    return table.set_column(table.column_names.index(column), column, pa.array(values, table[column].type))


@pytest.mark.parametrize("column", ["gif", "loss", "aum", "suggested_probability"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_score_that_is_not_finite_stops_the_stage_with_sample_and_column(written, column, value):
    audit, config, run = written
    audit.write_scores(run, _with(audit.scores_table(), column, 3, value))
    with pytest.raises(StageError, match=f"{column} of sample 'sample-00003'"):
        rank_samples(config, run)


def test_a_missing_score_stops_the_stage(written):
    audit, config, run = written
    audit.write_scores(run, audit.scores_table().slice(1))
    with pytest.raises(StageError, match="no score for sample 'sample-00000'"):
        rank_samples(config, run)


def test_a_doubled_score_stops_the_stage(written):
    audit, config, run = written
    table = audit.scores_table()
    audit.write_scores(run, pa.concat_tables([table, table.slice(5, 1)]))
    with pytest.raises(StageError, match="sample 'sample-00005' has 2 scores"):
        rank_samples(config, run)


def test_a_score_of_another_dataset_stops_the_stage(written):
    audit, config, run = written
    table = audit.scores_table()
    audit.write_scores(run, pa.concat_tables([table, _with(table.slice(5, 1), "sample_id", 0, "stranger")]))
    with pytest.raises(StageError, match="'stranger' is no training sample"):
        rank_samples(config, run)
    audit.write_scores(run, _with(table, "label", 4, 1 - min(int(audit.label[4]), 1)))
    with pytest.raises(StageError, match="'sample-00004' was scored with another label"):
        rank_samples(config, run)


def test_absent_scores_stop_the_stage(written):
    audit, config, run = written
    audit.write_scores(run, audit.scores_table().drop_columns(["gif"]))
    with pytest.raises(StageError, match="no column gif"):
        rank_samples(config, run)
    run.remove("scores")
    with pytest.raises(StageError, match="score first"):
        rank_samples(config, run)
