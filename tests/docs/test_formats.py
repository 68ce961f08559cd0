from __future__ import annotations

import dataclasses

import pyarrow as pa
import pytest

from auditor import Manifest
from auditor.config import parse_config
from auditor.data import prepare
from auditor.distributed.explain import IMAGES_SCHEMA, INFLUENCE_SCHEMA
from auditor.distributed.hif_files import Hif
from auditor.distributed.implicit import Solved
from auditor.fidelity.edit import Edit, Measured
from auditor.fidelity.edit_files import OUTCOME_SCHEMA
from auditor.methods import METHODS, base
from auditor.review.verdicts import SCHEMA as VERDICT_SCHEMA
from auditor.storage import RunFolder
from auditor.trajectory.initial import Initial
from auditor.trajectory.recorder import BATCH_SCHEMA, SIGNAL_SCHEMA
from tests.docs.pages import ROOT, blocks, tables

PAGE = ROOT / "docs" / "formats.md"
TABLES = tables(PAGE)


def described(heading: str) -> dict[str, str]:
    """Column names and types that the page gives for a file."""
    return {name: cells[0].replace("\\", "") for name, cells in TABLES[heading].items()}


def actual(schema: pa.Schema) -> dict[str, str]:
    """The same of a schema, in the words of the page."""

    def name(kind: pa.DataType) -> str:
        if pa.types.is_list(kind):
            return f"list<{name(kind.value_type)}>"
        return "struct" if pa.types.is_struct(kind) else str(kind)

    return {field.name: name(field.type) for field in schema}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> RunFolder:
    run = RunFolder(tmp_path_factory.mktemp("prepared"))
    limit = {"train": 150, "validation": 20, "test": 20}
    prepare(
        parse_config(
            {"run": str(run), "data": {"source": {"kind": "digits"}, "limit": limit, "label_noise": 0.1}},
        ),
        run,
    )
    return run


def test_ledger_and_signals_have_the_recorders_columns():
    assert described("trajectory/batches/*.parquet") == actual(BATCH_SCHEMA)
    assert described("trajectory/signals/*.parquet") == actual(SIGNAL_SCHEMA)


def test_verdicts_have_their_columns():
    assert described("review/verdicts.parquet") == actual(VERDICT_SCHEMA)


def test_explanations_have_their_columns():
    assert described("explain/images.parquet") == actual(IMAGES_SCHEMA)
    assert described("explain/influence.parquet") == actual(INFLUENCE_SCHEMA)


def test_edits_have_their_columns_and_fields():
    assert described("edits/*/*.parquet") == actual(OUTCOME_SCHEMA)
    assert set(TABLES["edits/*/edit.json"]) == {field.name for field in dataclasses.fields(Edit)}
    methods = TABLES["edits/*/edit.json"]["methods"][1]
    assert all(f"`{field.name}`" in methods for field in dataclasses.fields(Measured))


def test_manifest_has_the_manifests_fields():
    assert set(TABLES["trajectory/manifest.json"]) == {field.name for field in dataclasses.fields(Manifest)}


def test_initial_weights_have_their_fields():
    assert set(TABLES["initial/initial.json"]) == {field.name for field in dataclasses.fields(Initial)}


def test_the_record_of_the_solves_has_its_fields():
    assert set(TABLES["hif/hif.json"]) == {field.name for field in dataclasses.fields(Hif)}
    solved = TABLES["hif/hif.json"]["columns"][1]
    assert all(f"`{field.name}`" in solved for field in dataclasses.fields(Solved))


def test_snapshot_has_its_columns(prepared):
    columns = described("dataset/*/part-*.parquet")
    assert columns.pop("features") == "list<float>"
    assert columns == actual(prepared.read_table("dataset/train").schema)


def test_dataset_view_has_its_keys(prepared):
    assert {*TABLES["dataset.json"], "format_version"} == set(prepared.read_json("dataset.json"))


@pytest.mark.ray
def test_files_of_a_whole_audit_have_their_columns(own_loop):
    run, _ = own_loop
    for heading, name in [("scores/*.parquet", "scores"), ("report/ranked.parquet", "report/ranked.parquet")]:
        columns = described(heading)
        found = actual(run.read_table(name).schema)
        variants = [column for column in found if "@" in column]
        assert all(found.pop(column) == columns[base(column)] for column in variants)
        for method in METHODS.keys() - found.keys():  # this audit does not ask for it
            assert columns.pop(method) == ("double" if METHODS[method].predicts else "float")
        assert columns == found


@pytest.mark.ray
@pytest.mark.parametrize("name", ["evaluation.json", "report/summary.json", "trajectory/manifest.json"])
def test_files_of_a_whole_audit_have_their_keys(own_loop, name):
    run, _ = own_loop
    assert {*TABLES[name], "format_version"} == set(run.read_json(name))


@pytest.mark.ray
@pytest.mark.parametrize("number", range(len(blocks(PAGE, "python"))))
def test_snippets_read_a_run_folder(own_loop, number, capsys):
    run, _ = own_loop
    code = blocks(PAGE, "python")[number]
    assert '"runs/digits"' in code
    exec(code.replace("runs/digits", str(run)), {})  # noqa: S102
    assert capsys.readouterr().out


@pytest.mark.ray
def test_the_quickstarts_snippet_reads_the_ranking(own_loop, capsys):
    run, _ = own_loop
    code, *_ = blocks(ROOT / "docs" / "quickstart.md", "python")
    exec(code.replace("runs/digits", str(run)), {})  # noqa: S102
    assert "suggested_label" in capsys.readouterr().out


@pytest.mark.ray
def test_every_folder_of_a_run_stands_on_the_page(own_loop):
    run, _ = own_loop
    page = PAGE.read_text()
    for name in run.names(""):
        assert name in page
