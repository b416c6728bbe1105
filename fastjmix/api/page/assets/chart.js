// The last hour as two lines (SVG), as one sentence for a screen reader, and as a table.

import { $, Rows, count, el, moment, number, setText } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 720;
const HEIGHT = 160;
const HOUR = 3600;
const MINUTES = 5; // of a row of the table

function svg(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Returns the path of values, the newest at the right edge: a node that began lately has a short one. */
function path(values, most, secs) {
  const step = (WIDTH * secs) / HOUR;
  const point = (value, at) => `${(WIDTH - (values.length - 1 - at) * step).toFixed(1)} ${(HEIGHT - (value / most) * (HEIGHT - 8) - 2).toFixed(1)}`;
  return values.length ? `M${values.map(point).join("L")}` : "";
}

/** Returns a round number that is not below a value. */
function round(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 0.001)));
  return [1, 2, 5, 10].map((one) => one * power).find((one) => one >= value) ?? 10 * power;
}

class Chart {
  constructor() {
    this.received = svg("path", { class: "received" });
    this.delivered = svg("path", { class: "delivered" });
    this.title = svg("title", { id: "chart-title" });
    const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-labelledby": "chart-title" }, this.title, this.received, this.delivered);
    this.most = el("span", { class: "most", "aria-hidden": "true" });
    $("chart").append(el("div", { class: "chart" }, this.most, drawing), el("div", { class: "axis", "aria-hidden": "true" }, el("span", {}, "60 min ago"), el("span", {}, "now")));
    this.hour = new Rows($("hour"), "The last hour", [
      { head: "Until", text: (row) => row.until },
      { head: "Received MB/s", class: "number", text: (row) => number(row.received, 2) },
      { head: "Instances/s", class: "number", text: (row) => number(row.instances, 2) },
      { head: "Delivered MB/s", class: "number", text: (row) => number(row.delivered, 2) },
      { head: "Envelopes", class: "number", text: (row) => String(row.envelopes) },
    ], { key: (row) => row.at, empty: "Nothing yet" });
  }

  /** Shows the rates of a state: amounts of each step, the oldest first. */
  show(rates, now) {
    const secs = rates.step_secs;
    const each = (values) => values.map((value) => value / secs);
    const received = each(rates.received_mb);
    const delivered = each(rates.delivered_mb);
    const peak = Math.max(0, ...received, ...delivered);
    const most = round(peak || 1);
    this.received.setAttribute("d", path(received, most, secs));
    this.delivered.setAttribute("d", path(delivered, most, secs));
    setText(this.most, `${most} MB/s`);
    setText(this.title, this.sentence(received, delivered));
    this.hour.show(this.table(rates, now));
  }

  sentence(received, delivered) {
    const top = (values) => number(Math.max(0, ...values));
    return `MB per second of the last hour: received at most ${top(received)}, now ${number(received.at(-1) ?? 0)}; delivered at most ${top(delivered)}, now ${number(delivered.at(-1) ?? 0)}. The numbers are in the table below.`;
  }

  table(rates, now) {
    const steps = (MINUTES * 60) / rates.step_secs;
    const total = (values, from, to) => values.slice(from, to).reduce((sum, value) => sum + value, 0);
    const rows = [];
    for (let to = rates.received_mb.length, at = 0; to > 0; to -= steps, at += 1) {
      const from = Math.max(0, to - steps);
      const secs = (to - from) * rates.step_secs;
      rows.push({
        at,
        until: moment(now - at * MINUTES * 60).slice(11, 16),
        received: total(rates.received_mb, from, to) / secs,
        instances: total(rates.received_instances, from, to) / secs,
        delivered: total(rates.delivered_mb, from, to) / secs,
        envelopes: Math.round(total(rates.delivered_envelopes, from, to)),
      });
    }
    return rows;
  }
}

/** Returns the tiles of the latest complete step: name, value, and what stands below it. */
function latest(rates) {
  const last = (values) => (values.at(-1) ?? 0) / rates.step_secs;
  return [
    ["Received", `${number(last(rates.received_mb))} MB/s`, `${number(last(rates.received_instances))} instances/s`],
    ["Delivered", `${number(last(rates.delivered_mb))} MB/s`, `${count(Math.round(rates.delivered_envelopes.at(-1) ?? 0), "envelope")} in ${rates.step_secs} s`],
  ];
}

export { Chart, latest };
