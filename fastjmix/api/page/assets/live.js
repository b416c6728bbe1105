// The live view: what the node says of itself each second.

import { buttonForAll, buttons } from "./actions.js";
import { Chart, latest } from "./chart.js";
import { $, Rows, age, count, el, link, moment, number, plain, setText, size, stateName } from "./dom.js";

const WAITS = { peer: "the sender", packer: "the packer", disk: "the disk" };
const ALL = { outbox: "retry", held: "release", rejected: "requeue" };
const COUNTED = ["building", "outbox", "held", "rejected", "sent"];

/** How an envelope stands at each of several upstreams; "" where there is one. */
const atUpstreams = (row) => (row.at_upstreams ?? []).map((one) => `${one.upstream} ${one.state}`).join(", ");

/** Tiles of a name, a value and a line below; made once, then only their texts change. */
class Tiles {
  constructor(list, extra = () => null) {
    Object.assign(this, { list, extra, tiles: new Map() });
  }

  show(rows) {
    for (const [name, value, below, key] of rows) {
      if (!this.tiles.has(name)) {
        const more = this.extra(key);
        this.tiles.set(name, [el("dd"), el("dd")]);
        const [main, small] = this.tiles.get(name);
        this.list.append(el("div", {}, el("dt", {}, name), main, small, ...(more ? [el("dd", {}, more)] : [])));
      }
      const [main, small] = this.tiles.get(name);
      setText(main, value);
      setText(small, below);
    }
  }
}

/** Says the changes of a node that matter, and nothing else, in the live region. */
class Announcer {
  constructor() {
    this.before = null;
  }

  show(state) {
    const now = {
      node: `The node is ${state.node.state}`,
      rejected: `${count(state.envelopes.rejected.count ?? "?", "envelope")} rejected`,
      held: `${count(state.envelopes.held.count ?? "?", "envelope")} held`,
    };
    for (const one of state.upstreams) now[`upstream ${one.name}`] = `Upstream ${plain(one.name)} is ${plain(one.state)}`;
    const changed = Object.keys(now).filter((key) => this.before !== null && now[key] !== this.before[key]);
    if (changed.length) setText($("announcement"), changed.map((key) => now[key]).join(". "));
    this.before = now;
  }
}

function associations() {
  return new Rows($("associations"), "Associations", [
    { head: "Calling AE", text: (row) => plain(row.calling_ae) },
    { head: "Called AE", text: (row) => plain(row.called_ae) },
    { head: "Address", text: (row) => plain(row.peer) },
    { head: "MB/s", class: "number", text: (row) => number(row.mb_per_second) },
    { head: "Instances", class: "number", text: (row) => String(row.instances) },
    { head: "Size", class: "number", text: (row) => size(row.bytes) },
    { head: "Age", class: "number", text: (row) => age(row.age) },
    { head: "Waits for", text: (row) => WAITS[row.waits_for] ?? plain(row.waits_for) },
  ], { key: (row) => row.id, empty: "None" });
}

function upstreams() {
  return new Rows($("upstreams"), "Upstreams", [
    { head: "Name", text: (row) => plain(row.name) },
    { head: "State", text: (row) => plain(row.state), tone: (row) => (row.state === "available" ? "good" : "bad") },
    { head: "Why", text: (row) => plain(row.reason) },
    { head: "Last answer", text: (row) => answer(row.last_answer) },
    { head: "Waiting", class: "number", text: (row) => String(row.waiting ?? "") },
    { head: "Held", class: "number", text: (row) => String(row.held ?? "") },
    { head: "In flight", class: "number", text: (row) => String(row.running ?? "") },
    { head: "Next try", text: (row) => moment(row.next_try) },
    { head: "Address", text: (row) => plain(row.url) },
  ], { key: (row) => row.name, empty: "None is configured" });
}

function answer(last) {
  return last ? `${moment(last.at)}: ${last.status ?? "none"} ${plain(last.reason)}`.trim() : "none yet";
}

/** The table of envelopes, with check marks, a filter and the actions on what is chosen. */
class Envelopes {
  constructor(say) {
    this.chosen = new Set();
    this.listed = [];
    this.rows = new Rows($("envelopes"), "Envelopes", [
      { head: "Choose", make: (id) => this.box(id) },
      { head: "Study", class: "uid", text: (row) => plain(row.study) || "unknown", href: (row) => (row.study ? link.study(row.study) : link.trace(row.id)) },
      { head: "State", text: (row) => stateName(row.state), tone: (row) => ({ rejected: "bad", held: "warn" })[row.state] ?? "" },
      { head: "Why", text: (row) => plain(row.reason) },
      { head: "Age", class: "number", text: (row) => age(row.age_secs) },
      { head: "Calling AE", text: (row) => plain(row.calling_ae) },
      { head: "Upstream", text: (row) => plain(atUpstreams(row) || row.upstream) },
      { head: "Instances", class: "number", text: (row) => String(row.instances ?? "") },
      { head: "Size", class: "number", text: (row) => size(row.bytes) },
    ], { key: (row) => row.id, empty: "None" });
    $("live-actions").append(...buttons(["retry", "hold", "release", "requeue"], (states) => this.ids(states), say));
    $("listed").addEventListener("change", () => this.show(this.listed));
  }

  box(id) {
    const change = (event) => (event.target.checked ? this.chosen.add(id) : this.chosen.delete(id));
    return el("input", { type: "checkbox", "aria-label": `Choose envelope ${id}`, onchange: change });
  }

  ids(states) {
    return this.listed.filter((row) => this.chosen.has(row.id) && states.includes(row.state)).map((row) => row.id);
  }

  show(listed) {
    this.listed = listed;
    const here = new Set(listed.map((row) => row.id));
    for (const id of this.chosen) if (!here.has(id)) this.chosen.delete(id);
    const wanted = $("listed").value;
    this.rows.show(listed.filter((row) => !wanted || row.state === wanted));
  }
}

class Live {
  constructor(say) {
    this.state = null;
    this.announcer = new Announcer();
    this.chart = new Chart();
    this.rates = new Tiles($("rate-tiles"));
    const amount = (state) => () => this.state?.envelopes[state].count ?? 0;
    this.counts = new Tiles($("envelope-tiles"), (state) => (ALL[state] ? buttonForAll(ALL[state], state, amount(state), say) : null));
    this.associations = associations();
    this.upstreams = upstreams();
    this.envelopes = new Envelopes(say);
  }

  show(state) {
    this.state = state;
    this.node(state);
    this.chart.show(state.rates, state.node.now);
    this.rates.show(latest(state.rates));
    this.associations.show(state.associations.map((one) => ({ ...one, age: state.node.now - one.began })));
    setText($("lanes"), `${state.lanes.leased} of ${state.lanes.total} lanes in use${state.lanes.stalled ? `; ${state.lanes.stalled} full: the packer or the disk is slower than the senders` : ""}`);
    this.counts.show(COUNTED.map((key) => tile(key, state.envelopes[key])));
    this.envelopes.show(state.envelopes.listed);
    this.upstreams.show(state.upstreams);
    disk(state.disk);
    setText($("ledger-line"), ledger(state.ledger));
    errors(state.errors);
    this.announcer.show(state);
  }

  node({ node }) {
    setText($("node-name"), plain(node.name));
    setText($("node-state"), node.state);
    $("node-state").className = `badge ${node.state === "ready" && !node.warnings.length ? "good" : node.state === "ready" ? "warn" : "bad"}`;
    setText($("node-facts"), `version ${plain(node.version)}, running for ${age(node.now - node.started)}`);
    document.title = `${node.state}: fastjmix ${plain(node.name, 40)}`;
    const lines = [...node.reasons, ...node.warnings].map((line) => plain(typeof line === "string" ? line : JSON.stringify(line), 500));
    $("node-section").hidden = lines.length === 0;
    list($("node-reasons"), lines);
  }
}

/** Fills a list with texts, if they differ from what it has. */
function list(element, lines) {
  const before = Array.from(element.children, (item) => item.textContent);
  if (before.length === lines.length && before.every((line, at) => line === lines[at])) return;
  element.replaceChildren(...lines.map((line) => el("li", {}, line)));
}

function tile(key, { count: amount, bytes, oldest_secs: oldest }) {
  const below = [bytes ? size(bytes) : "", amount && oldest ? `oldest ${age(oldest)}` : ""].filter(Boolean);
  const name = stateName(key);
  return [name[0].toUpperCase() + name.slice(1), String(amount ?? "?"), below.join(", "), key];
}

function disk(found) {
  $("disk").hidden = found === null;
  if (found === null) return setText($("disk-line"), "The disk cannot be read");
  const used = found.total_bytes - found.free_bytes;
  const meter = $("disk");
  meter.max = found.total_bytes || 1;
  meter.high = Math.max(0, found.total_bytes - found.hard_mark_bytes);
  meter.low = Math.max(0, found.total_bytes - found.soft_mark_bytes);
  meter.optimum = 0;
  meter.value = used;
  const state = found.free_bytes < found.hard_mark_bytes ? "Images are refused. " : found.free_bytes < found.soft_mark_bytes ? "New associations are rejected. " : "";
  const inodes = found.free_inodes === null ? "inodes without a limit" : count(found.free_inodes, "free inode");
  return setText($("disk-line"), `${state}${size(found.free_bytes)} of ${size(found.total_bytes)} free; associations are rejected below ${size(found.soft_mark_bytes)}, images refused below ${size(found.hard_mark_bytes)}; ${inodes}`);
}

function ledger(found) {
  const state = found.state ?? "unknown";
  const why = found.why ? `: ${plain(found.why, 500)}` : "";
  const behind = found.events_behind ? `, ${count(found.events_behind, "event")} behind` : "";
  return `Ledger: ${plain(state)}${why}${behind}${found.bytes ? `, ${size(found.bytes)}` : ""}`;
}

function errors(found) {
  list($("errors"), found.length ? found.map((one) => `${moment(one.at)} ${plain(one.text, 500)}${one.what_to_do ? ` — ${plain(one.what_to_do, 500)}` : ""}`) : ["None"]);
}

export { Live };
