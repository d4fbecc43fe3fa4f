// All images in one table, and as a file.

import { byId, element, percent } from "./elements.js";
import { decision, ranked } from "./verdict.js";

/** Shows the table where there are several images; `choose` is called with the one that is wanted. */
export function showResults(cases, model, chosen, choose) {
  byId("results").hidden = cases.length < 2;
  if (cases.length < 2) return;
  const done = cases.filter((one) => one.state === "answered");
  const refused = cases.filter((one) => one.state === "refused").length;
  const uncertain = done.filter((one) => one.answer.uncertain).length;
  byId("results-count").textContent = [
    `${done.length} of ${cases.length} answered`,
    uncertain && `${uncertain} uncertain`,
    refused && `${refused} not readable`,
  ].filter(Boolean).join(" · ");
  const models = modelsOf(cases, model);
  const binary = models.every((each) => each.task === "binary");
  const asked = models.length === 1 && binary ? `Probability of ${models[0].positive}` : "Highest probability";
  byId("results-probability").textContent = models.length > 1 && binary ? "Probability" : asked;
  byId("download").disabled = done.length + refused === 0;
  byId("results-rows").replaceChildren(...cases.map((one) => {
    const name = element("button", { type: "button", className: "link" }, one.name);
    name.addEventListener("click", () => choose(one));
    const row = element("tr", {}, element("th", { scope: "row" }, name), ...cells(one, models.length > 1));
    if (one === chosen) row.setAttribute("aria-current", "true");
    return row;
  }));
}

// The models that gave the answers: the server may have gone on to another one between two images.
function modelsOf(cases, model) {
  const found = [...new Set(cases.map((one) => one.model).filter(Boolean))];
  return found.length ? found : [model];
}

function cells(one, several) {
  if (one.state === "refused") {
    return [element("td", { className: "error" }, "not readable"), element("td", {}, "–"),
      element("td", { className: "wide" }, one.error)];
  }
  if (one.state !== "answered") {
    return [element("td", {}, "…"), element("td", {}, "–"), element("td", { className: "wide" }, one.remark)];
  }
  const remark = one.answer.uncertain ? element("span", { className: "tag" }, "uncertain") : "";
  const answer = element("td", {}, decision(one.answer, one.model));
  if (one.answer.uncertain) answer.append(element("span", { className: "tag narrow" }, "uncertain"));
  return [answer, element("td", { className: "number" }, leading(one, several)),
    element("td", { className: "wide" }, remark)];
}

function leading({ answer, model }, several) {
  const name = model.task === "binary" ? model.positive : ranked(answer)[0][0];
  const share = answer.probabilities[name];
  const text = percent(share, answer.threshold[name] ?? share);
  return several || model.task === "multilabel" ? `${text} ${name}` : text;
}

/** Returns the table as CSV: a row an image, a column a class. */
export function csv(cases, model) {
  const models = modelsOf(cases, model);
  const classes = [...new Set(models.flatMap((each) => each.classes))];
  const limited = [...new Set(models.flatMap((each) => Object.keys(each.thresholds ?? {})))];
  const head = ["file", "label", "uncertain", ...classes.map((name) => `p(${name})`),
    ...limited.map((name) => `threshold(${name})`), "latency_ms", "digest", "version", "error"];
  const rows = cases.filter((one) => one.answer || one.error).map((one) => {
    const { answer } = one;
    return [one.name, answer?.label, answer?.uncertain, ...classes.map((name) => answer?.probabilities[name]),
      ...limited.map((name) => answer?.threshold[name]), answer?.latency_ms, answer?.digest,
      answer?.version, one.error];
  });
  return [head, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

function cell(value) {
  let text = String(value ?? "");
  // A spreadsheet would take a file's name that begins so for a formula, and run it.
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
