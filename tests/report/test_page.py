"""The report in a real browser: what a reader sees and does."""

from __future__ import annotations

import html

import numpy as np
import pyarrow as pa
import pytest

from auditor.methods import harm
from auditor.report import report
from tests.report.builders import Audit, write_features

browsers = pytest.importorskip("tests.report.browser", reason="needs selenium", exc_type=ImportError)
pytestmark = pytest.mark.skipif(browsers.MISSING is not None, reason=browsers.MISSING or "")

HOSTILE = [
    "<script>document.title = 'owned'</script>",
    "</script><script>document.title = 'owned'</script>",
    "<!-- <script>",
    "<img src=x onerror=\"document.title = 'owned'\">",
]
IDS = [f"'{row}' \"q\" --> </script> <b>&amp;{row}</b>" for row in range(120)]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = browsers.Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A report on 120 samples whose texts all try to break out, 60 of them in its gallery; verdicts on 30 rows."""
    carried = {"<i>note</i>": pa.array(["<u>carried</u> </script>"] * 120)}
    audit = Audit(rows=120, class_names=HOSTILE, sample_ids=IDS, carried=carried, gallery=60)
    config, run = audit.write(tmp_path_factory.mktemp("hostile"))
    verdicts = {"sample_id": IDS[:30], "verdict": ["keep", "remove", "<b>odd</b>"] * 10, "current": [True] * 30}
    run.write_table("review/verdicts.parquet", pa.table(verdicts))
    write_features(audit, run)
    report(config, run)
    return audit, run


@pytest.fixture(scope="module")
def table(hostile):
    return hostile[1].read_table("report/ranked.parquet").to_pylist()


@pytest.fixture
def page(browser, hostile):
    browser.open(hostile[1].local / "report/report.html")
    return browser


def _ids(page):
    return page.run("[...document.querySelectorAll('#cards .id')].map(one => one.textContent)")


def _all(page):
    """Ids on all pages, in order."""
    page.choose("size", "192")
    return _ids(page)


def _focused(page):
    """Place of the focused card on the page; -1 elsewhere."""
    return page.run("[...document.getElementById('cards').children].indexOf(document.activeElement)")


def test_it_opens_without_a_complaint_and_asks_no_host(page):
    assert page.texts("#status") == ["60 of 60 samples, 1 to 24 shown"]
    assert len(page.texts(".card")) == 24
    assert page.complaints() == []
    assert len(page.requests()) == 1  # itself


def test_a_card_shows_what_is_most_alike_and_what_it_harms_most_and_each_picture_is_there_once(page):
    alike, harms = page.run(
        "[...document.querySelector('.card').querySelectorAll('.around')].map("
        "list => [list.getAttribute('aria-label'), ...[...list.children].map(one => [one.title, one.innerText])])"
    )
    assert (alike[0], harms[0]) == ("most alike in training", "harms most in validation")
    assert len(alike[1:]) == 4
    for title, label in alike[1:]:
        named, _, similarity = title.rpartition(": similarity ")
        assert any(named == f"{sample_id}, label {name}" for sample_id in IDS for name in HOSTILE)
        assert 0 < float(similarity) <= 1
        assert label.strip() in HOSTILE
    assert all(" validation, label " in title and "its loss falls by" in title for title, _ in harms[1:])
    others = page.run("JSON.parse(document.getElementById('data').textContent).others.id")
    assert len(set(others)) == len(others)


def test_text_from_the_data_is_shown_as_it_is_and_runs_nothing(page, table):
    by_id = {row["sample_id"]: row for row in table}
    for summary in page.driver.find_elements("css selector", ".card summary")[:3]:
        summary.click()
    ids, cards = _ids(page), page.driver.find_elements("css selector", ".card")
    for sample_id, card in list(zip(ids, cards, strict=True))[:3]:
        terms = page.run("[...arguments[0].querySelectorAll('dd')].map(one => one.textContent)", card)
        assert terms[:2] == [by_id[sample_id]["label"], by_id[sample_id]["suggested_label"]]
        assert "<i>note</i>" in card.text
        assert "<u>carried</u> </script>" in card.text
    assert page.driver.title.startswith("Data audit: ")
    assert page.run("document.querySelectorAll('script').length") == 2
    assert page.run("document.querySelectorAll('main i, main u, .card [onerror]').length") == 0
    options = page.run("[...document.querySelectorAll('#given option')].map(one => one.textContent)")
    assert [option.rpartition(" (")[0] for option in options[1:]] == HOSTILE
    assert page.complaints() == []


def test_a_script_that_is_not_the_pages_own_is_refused(page):
    create = "document.body.append(Object.assign(document.createElement('script'), {textContent: arguments[0]}))"
    page.driver.execute_script(create, "document.title = 'owned'")
    assert page.driver.title.startswith("Data audit: ")
    assert any("Content Security Policy" in complaint for complaint in page.complaints())


def test_it_filters_by_the_pair_of_labels(page, table):
    page.choose("given", "0")
    page.choose("suggested", "1")
    rows = {row["sample_id"]: row for row in table}
    found = _all(page)
    assert found
    assert all((rows[one]["label"], rows[one]["suggested_label"]) == (HOSTILE[0], HOSTILE[1]) for one in found)
    page.click("#reset")
    everything = _all(page)
    assert len(everything) == 60
    wanted = [
        one for one in everything if (rows[one]["label"], rows[one]["suggested_label"]) == (HOSTILE[0], HOSTILE[1])
    ]
    assert found == wanted
    page.choose("suggested", "other")
    assert _all(page) == [one for one in everything if rows[one]["label"] != rows[one]["suggested_label"]]


def test_it_filters_by_flag_verdict_and_part_of_an_id_together(page, table):
    rows, everything = {row["sample_id"]: row for row in table}, _all(page)
    verdicts = dict(zip(IDS[:30], ["keep", "remove", "<b>odd</b>"] * 10, strict=True))
    page.click("#flagged")
    assert _all(page) == [one for one in everything if rows[one]["flagged"]]
    page.click("#flagged")
    page.choose("verdict-filter", "open")
    assert _all(page) == [one for one in everything if one not in verdicts]
    page.choose("verdict-filter", "keep")
    kept = [one for one in everything if verdicts.get(one) == "keep"]
    assert _all(page) == kept
    page.driver.find_element("id", "search").send_keys(kept[0][:4].upper())
    assert _all(page) == [one for one in kept if kept[0][:4] in one]
    page.driver.find_element("id", "search").send_keys("nothing has this id")
    assert _all(page) == []
    assert page.texts("#nothing") == ["No sample passes these filters."]
    assert page.texts("#status") == ["0 of 60 samples"]


@pytest.mark.parametrize("order", ["gif", "loss", "margin", "aum", "priority"])
def test_any_method_orders_the_cards_and_says_the_rank_among_all_samples(page, table, order):
    values = np.array([row[order] for row in table], dtype=float)
    values = values if order == "priority" else harm(order, values)
    ranked = sorted(range(len(table)), key=lambda place: (-values[place], table[place]["sample_id"]))
    ranks = {table[place]["sample_id"]: rank for rank, place in enumerate(ranked, 1)}
    page.choose("order", order)
    found = _all(page)
    assert len(found) == 60
    assert [int(text) for text in page.texts(".head b")] == [ranks[one] for one in found]
    assert found == sorted(found, key=ranks.get)


def test_pages_turn_until_their_ends(page):
    previous, following = (page.driver.find_element("css selector", f".pager .{name}") for name in ("previous", "next"))
    assert (previous.is_enabled(), following.is_enabled()) == (False, True)
    seen = _ids(page)
    following.click()
    assert page.texts("#status") == ["60 of 60 samples, 25 to 48 shown"]
    seen += _ids(page)
    following.click()
    seen += _ids(page)
    assert page.texts(".pager span") == ["page 3 of 3"] * 2
    assert (previous.is_enabled(), following.is_enabled()) == (True, False)
    assert len(set(seen)) == 60
    assert seen == _all(page)
    assert page.texts(".pager span") == ["page 1 of 1"] * 2


def test_the_keys_move_between_cards_rows_and_pages(page):
    page.press("j")
    assert _focused(page) == 0
    assert page.run("document.activeElement.matches(':focus-visible')")
    page.press("j", browsers.Keys.ARROW_RIGHT, "k")
    assert _focused(page) == 1
    tops = page.run("[...document.getElementById('cards').children].map(one => one.offsetTop)")
    across = tops.count(tops[0])
    assert across > 1
    page.press(browsers.Keys.ARROW_DOWN)
    assert _focused(page) == 1 + across
    page.press(browsers.Keys.ARROW_UP, browsers.Keys.ARROW_LEFT)
    assert _focused(page) == 0
    page.press("n")
    assert (_focused(page), page.texts("#status")) == (0, ["60 of 60 samples, 25 to 48 shown"])
    page.press("k")
    assert (_focused(page), page.texts("#status")) == (23, ["60 of 60 samples, 1 to 24 shown"])
    page.press("j", "p")
    assert page.texts("#status") == ["60 of 60 samples, 1 to 24 shown"]
    page.press("p", "k", "k")
    assert page.texts("#status") == ["60 of 60 samples, 1 to 24 shown"]


def test_exactly_one_card_is_in_the_order_of_tab(page):
    reachable = "[...document.querySelectorAll('.card')].map(one => one.tabIndex).filter(index => index === 0).length"
    assert page.run(reachable) == 1
    page.press("j", "j", "j")
    assert page.run(reachable) == 1
    assert page.run("document.activeElement.tabIndex") == 0


def test_keys_flag_search_and_explain_themselves(page, table):
    page.press("f")
    flagged = sum(row["flagged"] for row in table)
    assert page.texts("#status")[0].startswith(f"{flagged} of 60 samples")
    page.press("f", "/")
    assert page.run("document.activeElement.id") == "search"
    page.press("j", "?", "f")
    assert page.run("document.getElementById('search').value") == "j?f"
    assert not page.run("document.getElementById('flagged').checked")
    page.press(browsers.Keys.ESCAPE)
    assert page.run("document.activeElement.id") != "search"
    page.press("?")
    assert "next or previous page" in page.texts("#help")[0]
    page.press(browsers.Keys.ESCAPE)
    assert page.texts("#help") == [""]


def test_the_skip_link_comes_first_and_leads_to_the_samples(page):
    page.press(browsers.Keys.TAB)
    assert page.run("document.activeElement.textContent") == "Skip to the samples"
    page.press(browsers.Keys.ENTER)
    assert page.run("location.hash") == "#gallery"


def test_a_cell_of_the_matrix_and_a_class_lead_to_their_samples(page, table):
    rows, everything = {row["sample_id"]: row for row in table}, _all(page)
    page.click('.matrix button[data-given="2"][data-suggested="3"]')
    assert _focused(page) == 0
    pair = [one for one in everything if (rows[one]["label"], rows[one]["suggested_label"]) == (HOSTILE[2], HOSTILE[3])]
    assert pair
    assert _ids(page) == pair
    page.click('.lines button[data-given="1"]')
    assert _all(page) == [one for one in everything if rows[one]["label"] == HOSTILE[1]]


def test_without_javascript_the_first_samples_stand_there(browser, hostile):
    browser.allow_scripts(False)
    try:
        browser.open(hostile[1].local / "report/report.html")
        assert len(browser.texts(".card")) == 24
        assert "the first 24 samples stand here" in " ".join(browser.texts("#gallery"))
        assert set(browser.texts(".bar, .status")) == {""}
        assert browser.texts(".card")[0].splitlines()[0] == "1"
    finally:
        browser.allow_scripts(True)


def test_it_works_in_a_sandbox_that_allows_scripts_alone(browser, hostile, table, tmp_path):
    text = (hostile[1].local / "report/report.html").read_text()
    frame = f'<iframe sandbox="allow-scripts" width="1200" height="800" srcdoc="{html.escape(text)}"></iframe>'
    (tmp_path / "frame.html").write_text(f"<!doctype html><title>frame</title>{frame}")
    browser.open(tmp_path / "frame.html")
    browser.driver.switch_to.frame(0)
    assert browser.texts("#status") == ["60 of 60 samples, 1 to 24 shown"]
    browser.click(".pager .next")
    assert browser.texts("#status") == ["60 of 60 samples, 25 to 48 shown"]
    browser.click("#flagged")
    assert browser.texts("#status")[0].startswith(f"{sum(row['flagged'] for row in table)} of 60 samples")
    browser.driver.switch_to.default_content()
    assert browser.complaints() == []


CONTRAST = """(() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (value) => (value <= 10 ? value / 3294.6 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  const light = (text) => {
    const [red, green, blue] = channels(text).map(linear);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const ratio = (element) => {
    let behind = element;
    while (channels(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
    const pair = [light(getComputedStyle(element).color), light(getComputedStyle(behind).backgroundColor)];
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  };
  const chosen = "h1, .soft, .verdict p, .tile span, .chip, .labels dd, .ranks dt, .truth, summary, .bar label, th";
  return [...document.querySelectorAll(chosen)].filter((one) => one.offsetParent).map(ratio);
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(page, scheme):
    page.prefer(scheme)
    ratios = page.run(CONTRAST)
    assert len(ratios) > 200
    assert min(ratios) >= 4.5  # WCAG 2.2, AA
    brightness = page.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    assert (brightness > 200) == (scheme == "light")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    audit = Audit(rows=3000, gallery=3000)
    config, run = audit.write(tmp_path_factory.mktemp("large"))
    write_features(audit, run)
    report(config, run)
    return run.local / "report/report.html"


def test_of_thousands_of_samples_only_a_page_is_ever_built(browser, large):
    browser.open(large)
    assert browser.texts("#status") == ["3,000 of 3,000 samples, 1 to 24 shown"]
    assert browser.texts(".pager span")[0] == "page 1 of 125"
    elements = browser.run("document.querySelectorAll('*').length")
    assert elements < 3300
    browser.press(*["n"] * 5)
    assert len(browser.texts(".card .view img")) == 24
    assert browser.run("document.querySelectorAll('*').length") <= elements
    images = browser.run("[...document.querySelectorAll('.card .view img')].map(one => [one.loading, one.decoding])")
    assert images == [["lazy", "async"]] * 24
    browser.driver.find_element("id", "search").send_keys("sample-02999")
    assert _ids(browser) == ["sample-02999"]
    assert large.stat().st_size < 3_000_000
    assert browser.complaints() == []
