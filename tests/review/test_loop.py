"""The whole loop but for training: flag, queue, decide, review, export, audit again."""

from __future__ import annotations

import pyarrow.parquet as pq
from mlflow.tracing.client import TracingClient

from auditor.config import load_config
from auditor.data import prepare
from auditor.report.tracking import Tracking
from auditor.review.comparison import changes_since
from auditor.review.evidence import Ranked
from auditor.review.export import export
from auditor.review.predecessor import carry_over, earlier_verdicts, predecessor
from auditor.review.queue import fill_queue
from auditor.review.review import review
from auditor.review.verdicts import current, read_verdicts
from auditor.storage import RunFolder
from tests.review.browser import Browser
from tests.review.builders import answer, in_queue, prepared, write_scores

LIMIT = {"train": 150, "validation": 20, "test": 20}
WORDS = ["relabel", "keep", "remove", "relabel", "keep", "remove", "keep", "remove", "relabel", "keep"]
PANE = "mlflow.experiment-review-queue."


def by_client(config, run, lines, decisions, _):
    """Answer as a program: for each line a word and, for relabel, a class."""
    for line, (word, label) in zip(lines, decisions, strict=True):
        answer(config, run, line["sample_id"], "verdict", word, by="default")
        if word == "relabel":
            answer(config, run, line["sample_id"], "new label", label, by="default")


def by_clicks(config, run, lines, decisions, tmp_path):
    """The same as a person, in MLflow's own page."""
    logged = run.read_json("mlflow.json")
    queue = TracingClient(logged["tracking_uri"])._get_review_queue_by_name(
        logged["experiment_id"], f"flagged by run {logged['run_id'][:8]}"
    )
    browser = Browser(tmp_path / "profile")
    try:
        page = f"{logged['tracking_uri']}/#/experiments/{logged['experiment_id']}/review-queue"
        browser.go(f"{page}?selectedQueueId={queue.queue_id}")
        browser.wait(f"document.body.innerText.includes('{lines[0]['sample_id']}')")
        browser.click(f"document.querySelector('[data-component-id=\"{PANE}list.start-review\"]')")
        for number, (line, (word, label)) in enumerate(zip(lines, decisions, strict=True)):
            browser.wait(f"document.body.innerText.includes('{number} of 10 reviewed')")
            browser.wait(f"document.body.innerText.includes('{line['sample_id']}: the label is {line['label']},')")
            browser.wait("[...document.images].some(i => i.src.startsWith('data:image/webp') && i.naturalWidth == 160)")
            choose(browser, 0, word)
            if word == "relabel":
                choose(browser, 1, label)
            browser.click(f"document.querySelector('[data-component-id=\"{PANE}focused-review.complete\"]')")
        browser.wait("document.body.innerText.includes('Completed (10)')")
    finally:
        browser.close()


def choose(browser, question, option):
    menus = "[...document.querySelectorAll('[role=combobox],button')].filter("
    menus += "e => e.getAttribute('role') == 'combobox' || /Select an option/.test(e.innerText))"
    wanted = f"[...document.querySelectorAll('[role=option]')].find(e => e.innerText.trim() == '{option}')"
    for _ in range(5):
        browser.click(f"{menus}[{question}]")
        # A click that comes while another menu closes only closes that one, as it does for a person.
        if browser.comes(wanted, 3):
            break
    browser.click(wanted)
    browser.wait(f"{menus}[{question}].innerText.includes('{option}')")


def test_what_ten_verdicts_decide_is_settled_in_the_next_audit(server, tmp_path):
    config, run = prepared(tmp_path / "run", server.address, {"kind": "digits"}, limit=LIMIT, label_noise=0.1)
    assert fill_queue(config, run).items == 10
    lines = Ranked.read(run).to_look_at()[:10]
    by_client(config, run, lines, [(word, line["suggested_label"]) for word, line in zip(WORDS, lines, strict=True)], 0)

    found = review(config, run)
    assert found.counts == {"keep": 4, "relabel": 3, "remove": 3, "unsure": 0}
    assert (found.open, found.decided, found.precision) == (0, 10, 0.6)
    given = current(read_verdicts(run))
    assert [given[line["sample_id"]].verdict for line in lines] == WORDS
    assert {verdict.reviewer for verdict in given.values()} == {"default"}

    done = export(config, run, str(tmp_path / "out"))
    labels = dict(zip(*pq.read_table(tmp_path / "out/train.parquet", columns=["sample_id", "label"]), strict=True))
    labels = {sample_id.as_py(): str(label.as_py()) for sample_id, label in labels.items()}
    for line, word in zip(lines, WORDS, strict=True):
        expected = {"keep": line["label"], "relabel": line["suggested_label"], "remove": None}[word]
        assert labels.get(line["sample_id"]) == expected

    following = load_config(f"{done.folder}/audit.yaml", run=str(tmp_path / "next"))
    again = RunFolder(following.run)
    assert prepare(following, again).fingerprint == done.fingerprint
    # As the next training would: what was relabelled is harmful no longer.
    mended = {line["sample_id"] for line, word in zip(lines, WORDS, strict=True) if word == "relabel"}
    write_scores(following, again, mended)
    before = predecessor(following, again)
    carry_over(again, earlier_verdicts(following, before))
    changes = changes_since(before, earlier_verdicts(following, before), Ranked.read(again).table)
    assert changes.settled == {"keep": 4, "relabel": 3, "remove": 3}
    assert changes.reflagged == 0
    with Tracking(following, again):
        filled = fill_queue(following, again)
    assert filled.settled == 4
    asked = {trace.info.tags["auditor.sample_id"] for trace in in_queue(following, again)}
    assert len(asked) == 10
    assert asked.isdisjoint(line["sample_id"] for line in lines)
    assert review(following, again).counts == {"keep": 4, "relabel": 0, "remove": 0, "unsure": 0}
