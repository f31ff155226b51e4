// The gallery: all galaxies' numbers are in memory, one page of them is in the document.
"use strict";

(function () {
  const data = window.sphotGallery;
  const PER_PAGE = { cards: 48, table: 100 };
  const USUAL = 4096; // "no error map was given", which most fits say
  const byId = (id) => document.getElementById(id);
  const inputs = ["query", "status", "flag", "error", "sort", "direction", "view"].map(byId);
  const lower = data.names.map((name) => name.toLowerCase());
  const columns = new Map(data.columns.map((column) => [column.key, column]));
  const standard = { query: "", status: "", flag: "", error: "", sort: "row", direction: "up", view: "cards" };
  let state = { ...standard, page: 1 };
  let shown = [];

  function element(tag, text, attributes) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text; // never as HTML: a name is any text
    for (const key in attributes || {}) made.setAttribute(key, attributes[key]);
    return made;
  }

  function fillSelects() {
    const option = (id, value, text) => byId(id).append(element("option", text, { value }));
    for (const status of [...new Set(data.status)].sort()) option("status", status, status);
    const all = data.flags.reduce((sum, flags) => sum | flags, 0);
    for (const [bit, name, text] of data.flagNames) {
      if (all & bit) {
        byId("flag").append(element("option", name, { value: name.toUpperCase().replaceAll(" ", "_"), title: text }));
      }
    }
    for (const error of data.errors) option("error", error, error);
    option("sort", "row", "catalogue");
    option("sort", "name", "name");
    for (const column of data.columns) option("sort", column.key, column.label);
  }

  function readHash() {
    const given = new URLSearchParams(location.hash.slice(1));
    state = { ...standard, page: 1 };
    for (const key in standard) if (given.has(key)) state[key] = given.get(key);
    state.page = Math.max(1, parseInt(given.get("page"), 10) || 1);
    if (!columns.has(state.sort) && state.sort !== "name") state.sort = "row";
    if (!(state.view in PER_PAGE)) state.view = "cards";
  }

  function writeHash() {
    const given = new URLSearchParams();
    for (const key in standard) if (state[key] !== standard[key]) given.set(key, state[key]);
    if (state.page > 1) given.set("page", state.page);
    history.replaceState(null, "", "#" + given.toString());
  }

  function flagBit(name) {
    const found = data.flagNames.find((flag) => flag[1].toUpperCase().replaceAll(" ", "_") === name);
    return found ? found[0] : 0;
  }

  function select() {
    const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
    const bit = flagBit(state.flag);
    const error = data.errors.indexOf(state.error);
    shown = [];
    for (let i = 0; i < lower.length; i++) {
      if (state.status && data.status[i] !== state.status) continue;
      if (bit && !(data.flags[i] & bit)) continue;
      if (state.error && !data.failures[i].includes(error)) continue;
      if (words.every((word) => lower[i].includes(word))) shown.push(i);
    }
    const sign = state.direction === "down" ? -1 : 1;
    if (state.sort === "name") {
      const collator = new Intl.Collator("en", { numeric: true });
      shown.sort((a, b) => sign * collator.compare(data.names[a], data.names[b]) || a - b);
    } else if (state.sort === "row") {
      if (sign < 0) shown.reverse();
    } else {
      const values = columns.get(state.sort).values;
      // unknown values come last, whatever the direction
      shown.sort((a, b) => {
        const x = values[a], y = values[b];
        if (x === null || y === null) return (x === null) - (y === null) || a - b;
        return sign * (x - y) || a - b;
      });
    }
  }

  function number(key, i) {
    const column = columns.get(key);
    const value = column.values[i];
    return value === null ? "–" : value.toFixed(column.decimals);
  }

  function link(i) {
    if (!data.pages) return element("span", data.names[i]);
    return element("a", data.names[i], { href: "galaxies/" + data.stems[i] + ".html" });
  }

  function flagText(i) {
    return data.flagNames.filter(([bit]) => data.flags[i] & bit & ~USUAL).map((flag) => flag[1]).join(", ");
  }

  function card(i) {
    const item = element("li");
    if (data.pictured[i]) {
      item.append(element("img", undefined, {
        src: "thumbs/" + data.stems[i] + ".webp", loading: "lazy", width: 318, height: 104,
        alt: data.names[i] + ": data, without point sources, residual",
      }));
    } else {
      item.append(element("div", "no picture", { class: "blank" }));
    }
    const title = element("h2");
    title.append(link(i), element("span", data.status[i], { class: "status " + data.status[i] }));
    const first = columns.has("mag0") ? columns.get("mag0").label + " " + number("mag0", i) + ", " : "";
    item.append(title, element("p", first + "r_eff " + number("r_eff", i) + " px, n " + number("n", i) +
      ", chi2 " + number("chi2", i) + ", " + number("sources", i) + " sources"));
    const flags = flagText(i);
    if (flags) item.append(element("p", "flags: " + flags));
    if (data.failures[i].length) {
      item.append(element("p", "failed: " + data.failures[i].map((k) => data.errors[k]).join(", ")));
    }
    return item;
  }

  function heading(key, label) {
    const sorted = state.sort === key;
    const cell = element("th", undefined, { scope: "col" });
    if (sorted) cell.setAttribute("aria-sort", state.direction === "down" ? "descending" : "ascending");
    const button = element("button", label + (sorted ? (state.direction === "down" ? " ▼" : " ▲") : ""), { type: "button" });
    button.addEventListener("click", () => {
      change({ sort: key, direction: sorted && state.direction === "up" ? "down" : "up" });
      const again = byId("rows").querySelector('th[aria-sort] button');
      if (again) again.focus();
    });
    cell.append(button);
    return cell;
  }

  function tableRow(i) {
    const row = element("tr");
    const name = element("th", undefined, { scope: "row" });
    name.append(link(i));
    row.append(name, element("td", data.status[i]));
    for (const column of data.columns) row.append(element("td", number(column.key, i), { class: "number" }));
    row.append(element("td", flagText(i)));
    return row;
  }

  function show() {
    const perPage = PER_PAGE[state.view];
    const pages = Math.max(1, Math.ceil(shown.length / perPage));
    state.page = Math.min(state.page, pages);
    const part = shown.slice((state.page - 1) * perPage, state.page * perPage);
    const asTable = state.view === "table";
    byId("cards").hidden = asTable;
    byId("rows").hidden = !asTable;
    byId("cards").replaceChildren(...(asTable ? [] : part.map(card)));
    const table = byId("rows").querySelector("table");
    table.tHead.replaceChildren();
    if (asTable) {
      const row = element("tr");
      row.append(heading("name", "name"), element("th", "status", { scope: "col" }));
      for (const column of data.columns) row.append(heading(column.key, column.label));
      row.append(element("th", "flags", { scope: "col" }));
      table.tHead.append(row);
    }
    table.tBodies[0].replaceChildren(...(asTable ? part.map(tableRow) : []));
    byId("count").textContent = shown.length + " of " + data.names.length + " galaxies";
    byId("pages").textContent = pages;
    byId("page").max = pages;
    byId("page").value = state.page;
    byId("previous").disabled = state.page <= 1;
    byId("next").disabled = state.page >= pages;
    for (const input of inputs) if (input.value !== state[input.id]) input.value = state[input.id];
    writeHash();
  }

  function change(changes) {
    Object.assign(state, { page: 1 }, changes);
    select();
    show();
  }

  function turn(by) {
    const pages = Number(byId("pages").textContent);
    const page = Math.min(pages, Math.max(1, state.page + by));
    if (page === state.page) return;
    state.page = page;
    show();
  }

  function listen() {
    byId("controls").addEventListener("submit", (event) => event.preventDefault());
    for (const input of inputs) input.addEventListener("input", () => change({ [input.id]: input.value }));
    byId("previous").addEventListener("click", () => turn(-1));
    byId("next").addEventListener("click", () => turn(1));
    byId("page").addEventListener("change", () => turn((Number(byId("page").value) || 1) - state.page));
    addEventListener("hashchange", () => { readHash(); select(); show(); });
    addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("input, select")) return;
      if (event.key === "/") { event.preventDefault(); byId("query").focus(); }
      if (event.key === "ArrowRight") turn(1);
      if (event.key === "ArrowLeft") turn(-1);
    });
  }

  fillSelects();
  listen();
  readHash();
  select();
  show();
})();
