// The answer to one image, in words and as bars.

import { size } from "./case.js";
import { element, percent } from "./elements.js";

const MOST_BARS = 6;

/** Returns the decision in words, such as "PNEUMONIA". */
export function decision(answer, model) {
  return model.task === "multilabel" ? answer.positives.join(", ") || "No finding" : answer.label;
}

/** Returns the classes by falling probability. */
export function ranked(answer) {
  return Object.entries(answer.probabilities).sort((one, other) => other[1] - one[1]);
}

/** Returns one sentence that says how the decision came about. */
export function reason(answer, model) {
  const limits = Object.entries(answer.threshold);
  if (model.task === "multiclass" || !limits.length) {
    const [name, share] = ranked(answer)[0];
    return `The most probable of ${Object.keys(answer.probabilities).length} classes: ${name} with ${percent(share)}.`;
  }
  if (limits.length === 1) {
    const [name, limit] = limits[0];
    const share = answer.probabilities[name];
    const side = share > limit ? "above" : share < limit ? "below" : "exactly at";
    return `The probability of ${name} is ${percent(share, limit)}, ${side} the threshold of ${percent(limit, share)}.`;
  }
  const found = answer.positives.length;
  const reached = found === 1 ? "reaches its threshold" : "reach their thresholds";
  return `${found || "None"} of ${limits.length} findings ${reached}.`;
}

/** Returns why an answer is uncertain, and what that means. */
export function doubt(answer, model) {
  if (model.task === "multiclass") {
    return "Either several classes remain plausible for this image, or none does. Take it as undecided.";
  }
  const near = Object.entries(model.uncertain ?? {})
    .filter(([name, [low, high]]) => answer.probabilities[name] >= low && answer.probabilities[name] <= high)
    .map(([name, [low, high]]) => `${name} is undecided from ${percent(low, high)} to ${percent(high, low)}`);
  const where = near.length ? `: ${near.join(", ")}` : "";
  const why = "With other patients to set the threshold on, the answer might be the opposite. Take it as undecided.";
  return `Too close to the threshold to call${where}. ${why}`;
}

/** Returns what the page says of an image. */
export function verdict(one) {
  if (one.state === "refused") return refused(one);
  if (one.state !== "answered") return waiting(one);
  const { answer, model } = one;
  const found = document.createDocumentFragment();
  const positive = model.task !== "multiclass" && answer.positives.length > 0;
  const label = element("h2", { className: "label" }, decision(answer, model));
  label.classList.toggle("positive", positive && !answer.uncertain);
  label.classList.toggle("long", answer.positives.length > 1);
  found.append(
    element("p", { className: "eyebrow" }, eyebrow(answer, model)),
    label,
    element("p", { className: "reason" }, reason(answer, model)),
  );
  if (answer.uncertain) {
    found.append(element("div", { className: "doubt" },
      element("h3", {}, "Uncertain"), element("p", {}, doubt(answer, model))));
  }
  found.append(
    element("p", { className: "alarmed" }, "The latest images are unlike those of validation: read the warning above."),
    bars(answer, model), facts(one));
  return found;
}

function eyebrow(answer, model) {
  if (!answer.uncertain) return "The model's answer";
  return model.task === "multilabel" ? "The model's answer, uncertain in part" : "Uncertain: the model leans to";
}

function waiting(one) {
  const text = one.state === "waiting" ? "Waiting its turn" : one.remark ? capital(one.remark) : "Looking at the image";
  return element("div", { className: "wait" }, element("span", { className: "spinner", "aria-hidden": "true" }),
    element("p", {}, `${text}…`));
}

function refused(one) {
  const found = document.createDocumentFragment();
  found.append(element("p", { className: "eyebrow" }, "No answer"),
    element("h2", { className: "label" }, "This image could not be read"),
    element("p", { className: "reason error" }, one.error));
  if (one.remedy) found.append(element("p", { className: "reason" }, one.remedy));
  return found;
}

function bars(answer, model) {
  const all = ranked(answer);
  const isFound = (name) => answer.positives.includes(name);
  const rows = [...all.filter(([name]) => isFound(name)), ...all.filter(([name]) => !isFound(name))];
  const shown = rows.length <= MOST_BARS + 1
    ? rows : rows.filter(([name], place) => place < MOST_BARS || isFound(name));
  const rest = rows.filter((row) => !shown.includes(row));
  const found = element("section", { className: "bars", "aria-label": "Probabilities" },
    element("h3", {}, "Probabilities"), list(shown, answer, model));
  if (rest.length) {
    found.append(element("details", {}, element("summary", {}, `${rest.length} less probable classes`),
      list(rest, answer, model)));
  }
  const marks = Object.keys(answer.threshold).length
    ? [element("span", {}, element("i", { className: "key mark" }), "threshold")] : [];
  if (Object.keys(model.uncertain ?? {}).length) {
    marks.push(element("span", {}, element("i", { className: "key band" }), "uncertain around it"));
  }
  if (marks.length) found.append(element("p", { className: "legend", "aria-hidden": "true" }, ...marks));
  return found;
}

function list(rows, answer, model) {
  return element("ul", {}, ...rows.map(([name, share]) => bar(name, share, answer, model)));
}

function bar(name, share, answer, model) {
  const limit = answer.threshold[name];
  const band = model.uncertain?.[name];
  const track = element("div", { className: "track", "aria-hidden": "true" });
  if (band) {
    const shade = element("i", { className: "band" });
    shade.style.left = `${band[0] * 100}%`;
    shade.style.width = `${(band[1] - band[0]) * 100}%`;
    track.append(shade);
  }
  const fill = element("i", { className: "fill" });
  fill.style.width = `${share * 100}%`;
  track.append(fill);
  const told = [];
  if (limit !== undefined) {
    const mark = element("i", { className: "mark" });
    mark.style.left = `${limit * 100}%`;
    track.append(mark);
    told.push(`threshold ${percent(limit, share)}`);
  }
  if (band) told.push(`uncertain ${percent(band[0], band[1])} to ${percent(band[1], band[0])}`);
  const found = element("li", { className: answer.positives.includes(name) ? "bar decided" : "bar" },
    element("div", { className: "row" }, element("span", { className: "class" }, name),
      element("span", { className: "share" }, percent(share, limit ?? share))), track);
  if (told.length) found.append(element("p", { className: "fine" }, told.join(" · ")));
  found.dataset.class = name;
  return found;
}

function facts(one) {
  const { answer } = one;
  const time = answer.latency_ms.toFixed(answer.latency_ms < 10 ? 1 : 0);
  const rows = [
    ["Time", `${time} ms to decode and predict`],
    ["Model", [answer.version, (answer.digest ?? "").slice(0, 12)].filter(Boolean).join(" · ") || "not told"],
    ["File", size(one.file.size)],
  ];
  return element("dl", { className: "facts" },
    ...rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
