// A search over the ledger, and the story of a study, an envelope, an association or any other word.

import { buttons } from "./actions.js";
import { age, count, el, facts, link, moment, number, peer, plain, size, stateName, table } from "./dom.js";
import { download, get, page } from "./node.js";

const SHOWN = 50; // results of one page
const PARTS = 500; // instances of an envelope that are listed
const UID = /^[0-9]+(\.[0-9]+)+$/;

/** Returns where a word that may be anything is looked for: whole words first, then beginnings. */
function fields(word) {
  if (!word) return [""];
  if (UID.test(word)) return ["study", "series", "instance", "accession", "patient_id", "peer"];
  const name = /[\p{L}\p{N}]/u.test(word) ? ["patient_name"] : [];
  const id = /^[0-9a-f-]{4,36}$/i.test(word) ? ["envelope"] : [];
  return ["accession", "patient_id", "ae", ...id, ...name, "upstream", "peer"];
}

/** Returns the first page of results. `field` is then the field that had them. */
async function first({ field, word, ...more }) {
  const tried = field === "word" || !word ? fields(word) : [field];
  let answer = { envelopes: [], cursor: null };
  for (const one of tried) {
    answer = await get("search", { ...(one ? { [one]: word } : {}), ...more, limit: SHOWN });
    if (answer.envelopes.length) return { ...answer, field: one };
  }
  return { ...answer, field: tried[0] };
}

const midnight = (day, days) => {
  if (!day) return "";
  const date = new Date(`${day}T00:00:00`);
  date.setDate(date.getDate() + days);
  return date.getTime() / 1000;
};

function resultRow(one) {
  const study = one.study_instance_uid;
  const name = study || one.id;
  return [
    el("a", { href: study ? link.study(study) : link.trace(one.id), dir: "auto" }, plain(one.patient_name) || plain(one.patient_id) || plain(name)),
    peer(one.patient_id),
    peer(one.accession_number),
    peer(one.study_date),
    peer((one.modalities ?? []).join(" ")),
    stateName(one.state),
    String(one.instances),
    moment(one.at),
    peer(one.calling_ae),
    peer(one.upstream),
    el("a", { href: link.trace(one.id) }, plain(one.id).slice(0, 8)),
  ];
}

const HEADS = ["Patient", "Patient ID", "Accession", "Study date", "Modality", "State", "Instances", "Received", "Calling AE", "Upstream", "Envelope"];

/** Shows the results of a search in an element. Throws Refused. */
async function showSearch(into, given) {
  const query = { field: given.get("field") || "word", word: (given.get("word") ?? "").trim(), state: given.get("state") ?? "", since: midnight(given.get("since"), 0), until: midnight(given.get("until"), 1) };
  const found = await first(query);
  const title = query.word ? `Found for “${plain(query.word, 64)}”` : "Found";
  const results = el("div");
  into.replaceChildren(el("h2", { tabindex: "-1" }, title), results);
  const rows = [...found.envelopes];
  const draw = (cursor) => {
    const say = rows.length ? `${count(rows.length, "envelope")}, the newest first${cursor ? "; there are more" : ""}` : "Nothing is known of it. Names are found by their beginning, everything else by the whole word.";
    const more = async () => {
      const { field, word, ...rest } = query;
      const next = await get("search", { ...(found.field ? { [found.field]: word } : {}), ...rest, limit: SHOWN, cursor });
      rows.push(...next.envelopes);
      draw(next.cursor);
    };
    const button = cursor ? [el("button", { type: "button", onclick: more }, "More")] : [];
    results.replaceChildren(el("p", {}, say), ...(rows.length ? [table("Results", HEADS, rows.map(resultRow), "")] : []), ...button);
  };
  draw(found.cursor);
}

// -- a story ---------------------------------------------------------------------------------------

const KINDS = { study: "Study", series: "Series", instance: "Instance", envelope: "Envelope", association: "Association", accession: "Accession number", patient_id: "Patient ID", patient_name: "Patient name" };

const seconds = (value) => `${number(value)} s`;
const waits = (given) => Object.entries(given ?? {}).filter(([, secs]) => secs >= 0.05).map(([what, secs]) => `${plain(what)} ${seconds(secs)}`).join(", ");
const statuses = (given) => Object.entries(given ?? {}).map(([status, times]) => `${times} × 0x${plain(status)}`).join(", ");

/** Returns a step of a story in words. */
const STEPS = {
  association: (f) => ["Association begins", `${f.calling_ae} → ${f.called_ae}, from ${f.peer}, ${f.implementation_version || f.implementation_uid || "unnamed implementation"}`],
  ended: (f) => ["Association ends", `${f.how}: ${count(f.stored, "instance")} stored, ${f.refused} refused, ${size(f.bytes)} in ${seconds(f.seconds)}; waited for ${waits(f.waits) || "nothing"}; answers ${statuses(f.statuses)}`],
  refusal: (f) => ["Instance refused", `0x${f.status} ${f.why}, ${f.sop_instance_uid}`],
  opened: (f) => ["Envelope opened", `${f.calling_ae ?? ""} ${f.origin ?? ""}`],
  arrived: (f) => ["Instances arrived", `${count(f.instances, "instance")}, the first ${moment(f.first)}`],
  sealed: (f) => ["Envelope sealed", `${count(f.instances, "instance")}, ${size(f.bytes)}${f.upstream ? `, for ${f.upstream}` : ""}`],
  attempt: (f) => ["Delivery attempt", `${f.upstream}: ${f.outcome}${f.status ? ` ${f.status}` : ""}${f.times > 1 ? `, ${f.times} times until ${moment(f.last)}` : ""} ${f.reason} ${f.answer}`],
  moved: (f) => ["State", `${stateName(f.state)} ${f.reason ?? ""}`],
  action: (f) => ["Action", `${f.action} by ${f.actor}: ${f.result}`],
};

function stepRow(step) {
  const [name, said] = (STEPS[step.kind] ?? ((f) => [step.kind, JSON.stringify(f)]))(step.facts);
  const of = step.envelope ? el("a", { href: link.trace(step.envelope) }, plain(step.envelope).slice(0, 8)) : "";
  return [moment(step.at), plain(name), peer(said, 600), of];
}

const parent = (one) => `${page.collection}/${encodeURIComponent(one.id)}`;

/** Returns a button that saves an archive. */
function saving(name, path, file, say) {
  const press = async () => {
    say(`${name}: fetching`, false);
    try {
      await download(path, file);
      say(`${name}: done`, false);
    } catch (problem) {
      say(`${name}: ${problem.message}`, true);
    }
  };
  return el("button", { type: "button", onclick: press }, name);
}

const HERE = ["outbox", "held", "rejected", "sent"];

function envelopeRow(one, say) {
  const of = (states) => (states.includes(one.state) ? [one.id] : []);
  const actions = { outbox: ["retry", "hold"], held: ["release"], rejected: ["requeue"] }[one.state] ?? [];
  const saved = HERE.includes(one.state) ? [saving("Download", parent(one), `${one.id}.zip`, say), " ", saving("Manifest", `${parent(one)}/manifest`, `${one.id}.manifest.json`, say), " "] : [];
  return [
    el("a", { href: link.trace(one.id) }, plain(one.id)),
    stateName(one.state),
    peer(one.reason, 400),
    moment(one.since),
    String(one.instances),
    size(one.bytes),
    peer(one.upstream),
    el("span", {}, ...saved, ...buttons(actions, of, say).filter((node) => typeof node === "string" || node.dataset?.action)),
  ];
}

function about(envelopes) {
  const each = (get) => [...new Set(envelopes.map(get).filter(Boolean))];
  const told = (get) => {
    const values = each(get);
    return values.length ? peer(values.join(" | "), 400) : "";
  };
  return facts([
    ["Patient", told((one) => one.patient_name)],
    ["Patient ID", told((one) => one.patient_id)],
    ["Born", told((one) => one.patient_birth_date)],
    ["Sex", told((one) => one.patient_sex)],
    ["Accession", told((one) => one.accession_number)],
    ["Study date", told((one) => one.study_date)],
    ["Description", told((one) => one.study_description)],
    ["Modalities", told((one) => (one.modalities ?? []).join(" "))],
    ["Calling AE", told((one) => one.calling_ae)],
    ["Address", told((one) => one.peer)],
  ]);
}

function studyLinks(envelopes, say) {
  return [...new Set(envelopes.flatMap((one) => one.studies ?? []))].slice(0, 20).map((uid) => {
    const path = `${page.collection}?${new URLSearchParams({ studyInstanceUid: uid, whole: "1" })}`;
    return el("p", {}, el("a", { href: link.study(uid), dir: "auto" }, plain(uid, 80)), " ", saving("Download the study", path, "study.zip", say));
  });
}

function instances(one) {
  const parts = one.parts ?? [];
  const series = new Set(parts.map((part) => part.series_instance_uid)).size;
  const row = (part) => [peer(part.sop_instance_uid, 80), peer(part.series_instance_uid, 80), peer(part.sop_class_uid, 80), moment(part.arrived), size(part.bytes), `0x${plain(part.status)}${part.kept ? "" : ", a repetition"}`];
  const listed = table("Instances", ["SOP Instance UID", "Series Instance UID", "SOP class", "Arrived", "Size", "Status"], parts.slice(0, PARTS).map(row), "Not known");
  const all = parts.length + (one.parts_left_out ?? 0);
  const left = all > PARTS ? [el("p", {}, `The first ${Math.min(PARTS, parts.length)} of ${all}`)] : [];
  return el("details", {}, el("summary", {}, `Envelope ${plain(one.id).slice(0, 8)}: ${count(all, "instance")}${all > parts.length ? "" : ` in ${series} series`}`), listed, ...left);
}

function associationRow(one) {
  return [
    el("a", { href: link.trace(one.id) }, plain(one.id)), peer(one.calling_ae), peer(one.called_ae), peer(one.peer), moment(one.began), one.ended ? age(one.ended - one.began) : "still open",
    peer(one.how), String(one.stored), String(one.refused), size(one.bytes), number(one.seconds ? one.bytes / 1e6 / one.seconds : 0), waits(one.waits), one.p99_ms === null ? "" : `${number(one.p50_ms)} / ${number(one.p99_ms)}`,
  ];
}

const ASSOCIATION = ["Association", "Calling AE", "Called AE", "Address", "Began", "Lasted", "End", "Stored", "Refused", "Size", "MB/s", "Waited for", "p50 / p99 ms"];

/** Shows the story of a word in an element. Throws Refused. */
async function showStory(into, word, say) {
  const found = await get("trace", { word });
  const heading = el("h2", { tabindex: "-1" }, `${KINDS[found.kind] ?? "Nothing is known of"} `, peer(word, 80));
  if (!found.kind) {
    into.replaceChildren(heading, el("p", {}, "The ledger has no envelope, association or refusal of it. Has the modality sent it to this node? Rejected associations are in the log (association_rejected), with the reason."));
    return;
  }
  const envelopes = found.envelopes ?? [];
  const more = found.more ? [el("p", {}, `Only the newest ${envelopes.length} envelopes are shown: search for the others.`)] : [];
  if (found.associations_left_out) more.push(el("p", {}, `${count(found.associations_left_out, "further association")}: not shown.`));
  const parts = table("Parts", ["Envelope", "State", "Why", "Since", "Instances", "Size", "Upstream", "Actions"], envelopes.map((one) => envelopeRow(one, say)), "No envelope");
  const steps = table("Story", ["Time", "Step", "Details", "Envelope"], (found.steps ?? []).map(stepRow), "Nothing");
  const links = table("Associations", ASSOCIATION, (found.associations ?? []).map(associationRow), "Not known");
  into.replaceChildren(
    heading, about(envelopes), ...studyLinks(envelopes, say),
    el("h3", {}, "Parts"), ...more, parts, el("h3", {}, "Story"), steps,
    el("h3", {}, "Associations"), links, el("h3", {}, "Instances"), ...envelopes.map(instances),
  );
}

export { showSearch, showStory };
