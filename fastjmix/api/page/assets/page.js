// The page: which view the address names, the credentials, and one line for what went wrong.

import { $, setText } from "./dom.js";
import { showSearch, showStory } from "./found.js";
import { Live } from "./live.js";
import { Follower, keep, page } from "./node.js";

/** Shows one line: a problem is announced at once, a result when the reader is idle. */
function say(text, isProblem) {
  $("problem").hidden = !isProblem;
  setText($("problem"), isProblem ? text : "");
  if (!isProblem) setText($("announcement"), text);
}

/** Asks for credentials: they are missing, or wrong. */
function askForCredentials() {
  const form = $("access");
  if (form.hidden) {
    form.hidden = false;
    $(page.scheme === "basic" ? "username" : "secret").focus();
  }
}

function connected(live, views) {
  return new Follower(
    (state) => {
      if (!$("problem").hidden && $("problem").dataset.lost) say("", false);
      delete $("problem").dataset.lost;
      $("access").hidden = true;
      live.show(state);
      views.known();
    },
    (why) => {
      setText($("node-state"), "not connected");
      $("node-state").className = "badge bad";
      if (why.status === 401) askForCredentials();
      say(why.status === 401 ? "Credentials are needed, or were wrong." : `Not connected: ${why.message}. The numbers are old; the page tries again by itself.`, true);
      $("problem").dataset.lost = "yes";
    },
  );
}

/** Shows the view that the address names. The focus goes to its heading, but not at the first time. */
class Views {
  constructor() {
    this.shown = 0;
    this.numbers = 0;
    this.isLive = true;
    this.isKnown = false;
  }

  /** Shows the live view, if it is the one: there is a state to show from now on. */
  known() {
    this.isKnown = true;
    $("live").hidden = !this.isLive;
  }

  async show() {
    const number = ++this.numbers;
    const [, name, rest] = location.hash.match(/^#\/(study|trace|search)(?:[/?](.*))?$/s) ?? [];
    this.isLive = name === undefined;
    $("live").hidden = !this.isLive || !this.isKnown;
    $("found").hidden = name === undefined;
    say("", false);
    if (name === undefined) return this.focus($("main"));
    const into = document.createElement("div");
    try {
      if (name === "search") await showSearch(into, new URLSearchParams(rest ?? ""));
      else await showStory(into, decodeURIComponent(rest ?? ""), say);
    } catch (problem) {
      if (problem.status === 401) askForCredentials();
      return say(problem.message, true);
    }
    if (number !== this.numbers) return undefined; // another was asked for meanwhile
    $("found").replaceChildren(into);
    return this.focus(into.querySelector("h2"));
  }

  focus(element) {
    if (this.shown++ > 0) element.focus();
  }
}

function wireSearch(views) {
  $("search").addEventListener("submit", (event) => {
    event.preventDefault();
    const given = [...new FormData(event.target)].filter(([, value]) => value !== "");
    const before = location.hash;
    location.hash = `#/search?${new URLSearchParams(given)}`;
    if (location.hash === before) views.show();
  });
}

function wireAccess(views, follower) {
  const basic = page.scheme === "basic";
  document.querySelector("[data-for=basic]").hidden = !basic;
  setText($("secret-label"), { basic: "Password", bearer: "Token" }[page.scheme] ?? `Key (${page.header})`);
  $("access").addEventListener("submit", (event) => {
    event.preventDefault();
    keep($("username").value, $("secret").value);
    $("secret").value = "";
    $("access").hidden = true;
    follower.start();
    views.show();
    $("main").focus();
  });
  addEventListener("pagehide", () => ($("secret").value = ""));
}

function begin() {
  $("static").remove(); // not <noscript>: it is there as well where the scripts cannot be loaded
  for (const element of document.querySelectorAll(".scripted")) element.hidden = false;
  const study = new URLSearchParams(location.search).get("study");
  if (study) history.replaceState(null, "", `/#/study/${encodeURIComponent(study)}`);
  const views = new Views();
  const follower = connected(new Live(say), views);
  wireSearch(views);
  wireAccess(views, follower);
  addEventListener("hashchange", () => views.show());
  views.show();
  follower.start();
}

begin();
