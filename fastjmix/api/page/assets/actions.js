// Retry, hold, release and requeue: asked for once more, posted, and their result shown.

import { $, count, el, plain } from "./dom.js";
import { act, page } from "./node.js";

const ACTIONS = {
  retry: { name: "Retry", states: ["outbox"], tells: "is tried again now, whatever it waited for" },
  hold: { name: "Hold", states: ["outbox"], tells: "stays here and is not delivered until it is released" },
  release: { name: "Release", states: ["held"], tells: "is delivered again" },
  requeue: { name: "Requeue", states: ["rejected"], tells: "goes back to those that wait for the upstream" },
};

const WHY_NOT = "Actions need a listener with credentials (authentication_ref of its endpoint). On the node itself: fastjmix outbox.";

const permitted = page.scheme !== "";

/** Asks for a confirmation in a dialog. Returns whether it was given. */
function confirmed(title, text, verb) {
  const dialog = $("confirm");
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  $("confirm-yes").textContent = verb;
  $("why-line").hidden = verb !== ACTIONS.hold.name;
  $("why").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

/** Returns one sentence about the answer to an action, and whether a part of it failed. */
function told(action, answer) {
  const reasons = new Set(Object.values(answer.results).filter((result) => result !== "done").map((result) => plain(result)));
  const failed = answer.failed ? `; not ${answer.failed}: ${[...reasons].slice(0, 3).join("; ")}` : "";
  const more = answer.more ? "; there are more: do it once more" : "";
  return [`${ACTIONS[action].name}: ${count(answer.done, "envelope")}${failed}${more}`, Boolean(failed)];
}

/** Asks, posts and says what came of it. `what` is the body: ids, or all of a state. */
async function run(action, what, amount, say) {
  const { name, tells } = ACTIONS[action];
  const subject = amount === 1 ? "1 envelope" : `${amount} envelopes: each`;
  if (!(await confirmed(`${name}?`, `${subject} ${tells}.`, name))) return;
  try {
    const why = $("why").value.trim();
    say(...told(action, await act(action, why ? { ...what, why } : what)));
  } catch (problem) {
    say(`${name}: ${problem.message}`, true);
  }
}

/** Returns the buttons of actions: `of(states)` gives the ids in those states, when one is pressed. */
function buttons(names, of, say) {
  const made = names.flatMap((action) => {
    const press = () => {
      const ids = of(ACTIONS[action].states);
      if (ids.length) run(action, { ids }, ids.length, say);
      else say(`${ACTIONS[action].name}: choose envelopes that are ${ACTIONS[action].states.map(named).join(" or ")}`, true);
    };
    return [el("button", { type: "button", "data-action": action, disabled: !permitted, onclick: press }, ACTIONS[action].name), " "];
  });
  return permitted ? made : [...made, el("span", { class: "warn" }, WHY_NOT)];
}

const named = (state) => (state === "outbox" ? "waiting" : state);

/** Returns a button for all envelopes of a state. */
function buttonForAll(action, state, amount, say) {
  const press = () => run(action, { all: true, state }, amount(), say);
  return el("button", { type: "button", "data-all": state, disabled: !permitted, onclick: press }, `${ACTIONS[action].name} all`);
}

export { ACTIONS, buttonForAll, buttons };
