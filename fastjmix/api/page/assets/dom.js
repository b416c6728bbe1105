// Makes elements, and shows what peers sent. All text goes in as text nodes: nothing here or in the
// other modules parses HTML, and the page's policy (Trusted Types) forbids it.

const LONGEST = 200; // characters of a peer's text that are shown
// Controls, directions, invisible characters and halves of surrogate pairs: each is shown as its number.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

const $ = (id) => document.getElementById(id);

/** Returns an element. Children are elements, or anything else as text. */
function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** Returns a peer's text as it is shown: no character of it changes the direction or the lines. */
function plain(text, most = LONGEST) {
  const given = Array.from(String(text ?? "").slice(0, 4 * most));
  const cut = given.length > most || String(text ?? "").length > 4 * most;
  const shown = given.slice(0, most).join("");
  const code = (one) => `⟨U+${one.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
  return shown.replace(UNSEEN, code) + (cut ? `… (${String(text).length} characters)` : "");
}

/** Returns an element with a peer's text, isolated from the direction of what stands around it. */
function peer(text, most = LONGEST) {
  return el("bdi", {}, plain(text, most));
}

/** Sets the text of an element if it differs, so that nothing is read aloud or laid out again. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function size(bytes) {
  if (bytes === null || bytes === undefined) return "";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  let left = bytes;
  while (left >= 1000 && at < units.length - 1) [left, at] = [left / 1000, at + 1];
  return `${at === 0 || left >= 100 ? Math.round(left) : left.toFixed(1)} ${units[at]}`;
}

function age(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

function moment(at) {
  if (!at) return "";
  const date = new Date(at * 1000);
  const two = (number) => String(number).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

function number(value, digits = 1) {
  return value === null || value === undefined ? "" : Number(value).toFixed(digits);
}

/** Returns the plural form of a count and a noun. */
function count(amount, noun) {
  return `${amount} ${noun}${amount === 1 ? "" : "s"}`;
}

const STATES = { outbox: "waiting", "": "" };
const stateName = (state) => STATES[state] ?? plain(state);

const link = {
  study: (uid) => `#/study/${encodeURIComponent(uid)}`,
  trace: (word) => `#/trace/${encodeURIComponent(word)}`,
};

/**
 * Fills a table by key: a row keeps its elements, focus and check mark while its texts change.
 * A column has `head`, and `text(item)` (a string; `href(item)` makes it a link) or `make(key)`
 * (an element, made once). The first column with `text` heads the row.
 */
class Rows {
  constructor(table, caption, columns, { key, empty }) {
    Object.assign(this, { columns, key, rows: new Map() });
    const heads = columns.map((column) => el("th", { scope: "col", class: column.class }, column.head));
    this.body = el("tbody");
    this.empty = el("tr", {}, el("td", { colspan: columns.length }, empty));
    this.heading = columns.findIndex((column) => column.text);
    table.replaceChildren(el("caption", { class: "unseen" }, caption), el("thead", {}, el("tr", {}, ...heads)), this.body);
  }

  show(items) {
    const keys = new Set(items.map(this.key));
    for (const [key, row] of this.rows) {
      if (!keys.has(key)) {
        row.remove();
        this.rows.delete(key);
      }
    }
    let before = null;
    for (const item of items) {
      const row = this.row(item);
      const place = before === null ? this.body.firstChild : before.nextSibling;
      if (place !== row) this.body.insertBefore(row, place);
      before = row;
    }
    if (items.length === 0) this.body.replaceChildren(this.empty);
    else this.empty.remove();
  }

  row(item) {
    const key = this.key(item);
    let row = this.rows.get(key);
    if (!row) {
      row = el("tr", {}, ...this.columns.map((column, at) => this.cell(column, at, key)));
      this.rows.set(key, row);
    }
    this.columns.forEach((column, at) => {
      if (!column.text) return;
      const cell = row.children[at];
      setText(cell.firstChild, column.text(item));
      if (column.href) cell.firstChild.setAttribute("href", column.href(item));
      if (column.tone) cell.className = `${column.class ?? ""} ${column.tone(item)}`.trim();
    });
    return row;
  }

  cell(column, at, key) {
    const inside = column.text ? el(column.href ? "a" : "bdi", column.href ? { href: "#/", dir: "auto" } : {}) : column.make(key);
    const heads = at === this.heading;
    return el(heads ? "th" : "td", { scope: heads ? "row" : null, class: column.class ?? null }, inside);
  }
}

/** Returns a table that does not change. Rows are lists of elements or texts. */
function table(caption, heads, rows, empty) {
  const body = rows.length ? rows.map((row) => el("tr", {}, ...row.map((cell) => el("td", {}, cell)))) : [el("tr", {}, el("td", { colspan: heads.length }, empty))];
  const head = el("thead", {}, el("tr", {}, ...heads.map((one) => el("th", { scope: "col" }, one))));
  const made = el("table", {}, el("caption", { class: "unseen" }, caption), head, el("tbody", {}, ...body));
  return el("div", { class: "scroll tall", role: "region", "aria-label": `${caption}, table`, tabindex: "0" }, made);
}

/** Returns a list of names and values; those without a value are left out. */
function facts(pairs) {
  const kept = pairs.filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return el("dl", { class: "facts" }, ...kept.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

export { $, Rows, age, count, el, facts, link, moment, number, peer, plain, setText, size, stateName, table };
