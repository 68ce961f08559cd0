"use strict";
// The gallery: reads the samples that stand in the page as JSON, filters, orders and shows them a page at a time.
// Text from the data only ever becomes textContent or an attribute's value, never markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const columns = data.samples;
  const others = data.others;
  const count = columns.id.length;
  const $ = (id) => document.getElementById(id);
  const list = $("cards"), search = $("search"), given = $("given"), suggested = $("suggested");
  const verdict = $("verdict-filter"), order = $("order"), flagged = $("flagged"), size = $("size");
  const ids = columns.id.map((id) => id.toLowerCase());
  let found = []; // places of the samples that pass the filters, in order
  let page = 0;
  let current = 0; // the card of the page that the keys move from

  // ---- elements

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function pairs(className, entries) {
    const box = make("dl", className);
    for (const [name, value] of entries) {
      const line = make("div");
      const term = make("dt", "", name);
      term.title = name;
      line.append(term, make("dd", "", value));
      box.append(line);
    }
    return box;
  }

  function bars(path) {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    svg.setAttribute("viewBox", "0 0 100 40");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", "feature values");
    svg.append(document.createElementNS(space, "path"));
    svg.firstChild.setAttribute("d", path);
    return svg;
  }

  function view(at) {
    const box = make("div", "view");
    if (columns.image[at]) {
      const image = make("img", columns.tiny[at] ? "tiny" : "photo");
      image.loading = "lazy";
      image.decoding = "async";
      image.alt = `Sample ${columns.id[at]}`;
      image.title = `${columns.size[at]} pixels`;
      image.src = columns.image[at];
      box.append(image);
    } else if (columns.bars[at]) {
      box.append(bars(columns.bars[at]));
    } else {
      box.append(make("span", "soft small", "image cannot be read"));
    }
    return box;
  }

  function labels(at) {
    const same = columns.given[at] === columns.suggested[at];
    const box = pairs("labels", [
      ["given", data.classes[columns.given[at]]],
      [`${same ? "agreed" : "suggested"} ${columns.probability[at]}`, data.classes[columns.suggested[at]]],
      [data.predicts ? "without it" : "suspicion", columns.effect[at]],
    ]);
    const [label, other, effect] = box.querySelectorAll("dd");
    label.title = label.textContent;
    other.title = other.textContent;
    other.className = same ? "same" : "other";
    effect.className = "effect";
    return box;
  }

  function priority(at) {
    const value = columns.priority[at];
    const box = make("div", "priority");
    const meter = make("meter");
    meter.value = value;
    meter.setAttribute("aria-hidden", "true");
    box.append(make("span", "soft", "priority"), meter, make("b", "", value.toFixed(3)));
    return box;
  }

  // Small pictures of other samples, each with its label; those with another label than the card's stand out.
  function around(title, entries, at, says) {
    if (!entries.length) return [];
    const label = data.classes[columns.given[at]];
    const row = make("ul", "around");
    row.setAttribute("aria-label", title);
    for (const [place, value] of entries) {
      const item = make("li", others.label[place] === label ? "" : "differs");
      if (others.image[place]) {
        const image = make("img", others.tiny[place] ? "tiny" : "photo");
        image.loading = "lazy";
        image.alt = "";
        image.src = others.image[place];
        item.append(image);
      } else if (others.bars[place]) item.append(bars(others.bars[place]));
      item.append(make("span", "", others.label[place]));
      item.title = `${others.id[place]}, label ${others.label[place]}: ${says} ${value}`;
      row.append(item);
    }
    return [make("div", "soft small title", title), row];
  }

  function more(at) {
    const box = make("details");
    box.append(make("summary", "", "scores and columns"));
    box.append(pairs("scores", data.methods.map((method, index) => [method, columns.scores[at][index]])));
    if (columns.carried[at].length) box.append(pairs("scores", columns.carried[at]));
    if (columns.values[at]) box.append(make("div", "values mono", columns.values[at]));
    return box;
  }

  function truth(at) {
    const right = columns.truth[at] === data.classes[columns.given[at]];
    const box = make("div", `truth ${right ? "right" : "wrong"}`, "truth: ");
    box.append(make("b", "", columns.truth[at]), `, label is ${right ? "right" : "wrong"}`);
    return box;
  }

  function card(at) {
    const box = make("li", "card");
    box.tabIndex = -1;
    box.dataset.at = at;
    const by = data.orders.indexOf(order.value);
    const place = columns.ranks[at][by].toLocaleString("en");
    const head = make("div", "head");
    head.append(make("b", "", place));
    if (columns.flagged[at]) head.append(make("span", "chip flag", "flagged"));
    head.append(make("span", `chip ${columns.verdict[at] === "open" ? "quiet" : ""}`, columns.verdict[at]));
    const name = make("div", "id mono", columns.id[at]);
    name.title = columns.id[at];
    name.id = `sample-${at}`;
    box.setAttribute("aria-labelledby", name.id);
    const facts = make("div", "facts");
    const ranks = pairs("ranks", data.orders.map((name, index) => [name, columns.ranks[at][index].toLocaleString("en")]));
    ranks.children[by].className = "chosen";
    facts.append(
      name, labels(at), priority(at),
      ...around("most alike in training", columns.neighbours[at], at, "similarity"),
      ...around("harms most in validation", columns.harmed[at], at, "without the sample its loss falls by"),
      make("div", "soft small title", "rank by"), ranks, more(at),
    );
    if (columns.truth[at] !== null) facts.append(truth(at));
    box.append(head, view(at), facts);
    return box;
  }

  // ---- filters and pages

  function passes(at) {
    const text = search.value.trim().toLowerCase();
    const other = columns.given[at] !== columns.suggested[at];
    return (
      (!text || ids[at].includes(text)) &&
      (given.value === "" || columns.given[at] === Number(given.value)) &&
      (suggested.value === "" || (suggested.value === "other" ? other : columns.suggested[at] === Number(suggested.value))) &&
      (verdict.value === "" || columns.verdict[at] === verdict.value) &&
      (!flagged.checked || columns.flagged[at] === 1)
    );
  }

  function filter() {
    const by = data.orders.indexOf(order.value);
    found = [];
    for (let at = 0; at < count; at += 1) if (passes(at)) found.push(at);
    found.sort((left, right) => columns.ranks[left][by] - columns.ranks[right][by]);
    show(0);
  }

  function pages() {
    return Math.max(Math.ceil(found.length / Number(size.value)), 1);
  }

  function show(wanted) {
    page = Math.min(Math.max(wanted, 0), pages() - 1);
    current = 0;
    const first = page * Number(size.value);
    const shown = found.slice(first, first + Number(size.value));
    list.replaceChildren(...shown.map(card));
    if (shown.length) list.firstChild.tabIndex = 0;
    $("nothing").hidden = shown.length > 0;
    const range = shown.length ? `, ${(first + 1).toLocaleString("en")} to ${(first + shown.length).toLocaleString("en")} shown` : "";
    $("status").textContent = `${found.length.toLocaleString("en")} of ${count.toLocaleString("en")} samples${range}`;
    for (const pager of document.querySelectorAll(".pager")) {
      pager.querySelector("span").textContent = `page ${page + 1} of ${pages()}`;
      pager.querySelector(".previous").disabled = page === 0;
      pager.querySelector(".next").disabled = page === pages() - 1;
    }
  }

  function turn(step) {
    if (page + step < 0 || page + step >= pages()) return false;
    show(page + step);
    $("gallery").scrollIntoView();
    return true;
  }

  function choose(givenClass, suggestedClass) {
    search.value = verdict.value = "";
    flagged.checked = false;
    given.value = givenClass;
    suggested.value = suggestedClass;
    filter();
    $("gallery").scrollIntoView();
    if (list.firstChild) focus(0);
    else $("reset").focus();
  }

  // ---- keys

  function focus(index) {
    list.children[current].tabIndex = -1;
    current = index;
    list.children[current].tabIndex = 0;
    list.children[current].focus();
  }

  function move(step) {
    if (!list.children.length) return;
    const inside = list.contains(document.activeElement);
    const wanted = inside ? current + step : current;
    if (wanted >= 0 && wanted < list.children.length) focus(wanted);
    else if (turn(Math.sign(step))) focus(step > 0 ? 0 : list.children.length - 1);
  }

  function across() {
    const top = list.firstChild.offsetTop;
    const row = [...list.children].findIndex((one) => one.offsetTop !== top);
    return row < 0 ? list.children.length : row;
  }

  function turnAndFocus(step) {
    if (turn(step)) focus(0);
  }

  const keys = {
    j: () => move(1),
    k: () => move(-1),
    ArrowRight: () => move(1),
    ArrowLeft: () => move(-1),
    n: () => turnAndFocus(1),
    p: () => turnAndFocus(-1),
    f: () => { flagged.checked = !flagged.checked; filter(); },
    "/": () => { search.focus(); search.select(); },
    "?": () => $("help").showModal(),
  };

  function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
    if (event.target.matches("input:not([type=checkbox]), select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const vertical = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    // Outside the cards these two keys scroll the page, as anywhere.
    if (vertical && list.contains(document.activeElement)) move(vertical * across());
    else if (event.key in keys) keys[event.key]();
    else return;
    event.preventDefault();
  }

  // ---- start

  function options(select, entries) {
    for (const [value, text] of entries) {
      const option = make("option", "", text);
      option.value = value;
      select.append(option);
    }
  }

  function tally(column, index) {
    return column.reduce((sum, value) => sum + (value === index), 0);
  }

  options(given, data.classes.map((name, index) => [index, `${name} (${tally(columns.given, index)})`]));
  options(suggested, data.classes.map((name, index) => [index, `${name} (${tally(columns.suggested, index)})`]));
  options(verdict, [...new Set(columns.verdict)].sort().map((name) => [name, `${name} (${tally(columns.verdict, name)})`]));
  options(order, data.orders.map((name) => [name, name]));
  order.value = data.rankBy;

  for (const control of [given, suggested, verdict, order, flagged]) control.addEventListener("change", filter);
  search.addEventListener("input", filter);
  size.addEventListener("change", () => show(0));
  $("reset").addEventListener("click", () => {
    order.value = data.rankBy;
    search.value = given.value = suggested.value = verdict.value = "";
    flagged.checked = false;
    filter();
  });
  $("keys").addEventListener("click", () => $("help").showModal());
  $("close").addEventListener("click", () => $("help").close());
  for (const button of document.querySelectorAll(".pager button")) {
    button.addEventListener("click", () => turn(button.classList.contains("next") ? 1 : -1));
  }
  for (const button of document.querySelectorAll("button[data-given]")) {
    button.addEventListener("click", () => choose(button.dataset.given, button.dataset.suggested));
  }
  list.addEventListener("focusin", (event) => {
    const index = [...list.children].indexOf(event.target.closest(".card"));
    if (index >= 0 && index !== current) {
      list.children[current].tabIndex = -1;
      current = index;
      list.children[current].tabIndex = 0;
    }
  });
  document.addEventListener("keydown", pressed);
  for (const hidden of document.querySelectorAll("[data-script]")) hidden.hidden = false;
  filter();
})();
