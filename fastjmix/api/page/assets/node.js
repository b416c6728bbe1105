// Asks the node: with the credentials that were given in this tab, and none of the browser's.

const KEPT = "fastjmix.credentials";
const QUIET_MS = 15000; // the node sends its state each second: this long without is a lost connection
const WAIT_MS = [1000, 2000, 5000, 10000, 30000];

const page = document.documentElement.dataset; // scheme ("" : none is asked for), header, collection

// With Basic, a browser would answer a 401 with a dialog of its own, and remember what is typed there.
// Else a proxy in front of the node may go by a cookie.
const COOKIES = page.scheme === "basic" ? "omit" : "same-origin";

/** A request that was not answered with success. `status` 0: no answer. */
class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Keeps the credentials as the value of the header, until the tab is closed. */
function keep(username, secret) {
  const bytes = new TextEncoder().encode(`${username}:${secret}`);
  const basic = () => btoa(String.fromCharCode(...bytes));
  const value = { bearer: () => `Bearer ${secret}`, basic: () => `Basic ${basic()}` }[page.scheme] ?? (() => secret);
  sessionStorage.setItem(KEPT, value());
}

function headers(more = {}) {
  const kept = sessionStorage.getItem(KEPT);
  return kept === null ? more : { ...more, [page.header]: kept };
}

/** Returns a response of success. Throws Refused. */
async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", credentials: COOKIES, redirect: "error", ...options, headers: headers(options.headers) });
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new Refused(0, "the node does not answer");
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  const hint = typeof said.hint === "string" ? `\n${said.hint}` : "";
  throw new Refused(response.status, `${said.error ?? response.statusText}${hint}`);
}

/** Returns the JSON of a GET. */
async function get(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const tail = given.length ? `?${new URLSearchParams(given)}` : "";
  return (await ask(`/api/node/${path}${tail}`)).json();
}

/** Posts an action, and returns its JSON. */
async function act(action, what) {
  const body = JSON.stringify(what);
  return (await ask(`/api/node/envelopes/${action}`, { method: "POST", body, headers: { "Content-Type": "application/json" } })).json();
}

/** Saves an archive. It is fetched, since a link cannot carry the header of the credentials. */
async function download(path, name) {
  const url = URL.createObjectURL(await (await ask(path)).blob());
  const anchor = document.createElement("a");
  anchor.href = url;
  anchor.download = name;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

/** Yields the data of each server-sent event of a response. */
async function* events(response, heard) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let kept = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    heard();
    kept += value;
    const parts = kept.split(/\r?\n\r?\n/);
    kept = parts.pop();
    for (const part of parts) {
      const data = part.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5));
      if (data.length) yield JSON.parse(data.join("\n"));
    }
  }
}

/**
 * Follows the state of the node for ever: `onState` gets each, `onLost` a Refused for each loss.
 * fetch() and not EventSource, which cannot send a header. A tab that is not seen does not follow.
 */
class Follower {
  constructor(onState, onLost) {
    Object.assign(this, { onState, onLost, failures: 0, timer: 0, running: null });
    document.addEventListener("visibilitychange", () => (document.hidden ? this.stop() : this.start()));
  }

  start() {
    this.stop();
    this.running = new AbortController();
    this.follow(this.running);
  }

  stop() {
    clearTimeout(this.timer);
    this.running?.abort();
    this.running = null;
  }

  async follow(running) {
    let quiet = 0;
    const heard = () => {
      clearTimeout(quiet);
      quiet = setTimeout(() => running.abort(), QUIET_MS);
    };
    let why = new Refused(0, "the connection to the node has ended");
    try {
      heard();
      const response = await ask("/api/node/events", { signal: running.signal });
      for await (const state of events(response, heard)) {
        this.failures = 0;
        this.onState(state);
      }
    } catch (problem) {
      if (problem instanceof Refused) why = problem;
    } finally {
      clearTimeout(quiet);
    }
    if (this.running !== running) return; // stopped, or begun anew
    this.onLost(why);
    if (why.status === 401) return; // credentials begin it anew
    const wait = WAIT_MS[Math.min(this.failures++, WAIT_MS.length - 1)];
    this.timer = setTimeout(() => this.start(), wait);
  }
}

export { Follower, Refused, act, download, get, keep, page };
