// The page: images come in, are asked about a few at a time, and one of them is shown with its answer.

import { fillAbout, showHealth, showModel, signIn, signOut } from "./about.js";
import { Case } from "./case.js";
import { byId, element, percent, speak } from "./elements.js";
import { Heat } from "./heat.js";
import { csv, showResults } from "./results.js";
import { OTHER_MODEL, Refusal, Server } from "./server.js";
import { decision, verdict } from "./verdict.js";

const AT_ONCE = 4;
const HEALTH_EVERY_MS = 30_000;

const server = new Server(signIn, (text) => {
  byId("connection").textContent = text;
  byId("connection").hidden = !text;
});
const heat = new Heat(server);
const cases = [];
const models = new Map(); // by digest
let model = null; // that the server had last
let chosen = null;
let asking = 0;

async function start() {
  try {
    await renew();
  } catch (error) {
    byId("connection").textContent = `The model cannot be asked for: ${error.message} Load this page again later.`;
    byId("connection").hidden = false;
    return;
  }
  heat.of(model);
  byId("workbench").hidden = false;
  show();
  byId("choose").focus();
  showHealth(server);
  setInterval(() => document.hidden || showHealth(server), HEALTH_EVERY_MS);
}

// -- images come and go ----------------------------------------------------------------------------------------------

function add(files) {
  const added = [...files].map((file) => new Case(file));
  if (!added.length || !model) return;
  cases.push(...added);
  for (const one of added) one.draw(server, changed);
  speak(added.length === 1 ? `Added ${added[0].name}` : `Added ${added.length} images`);
  choose(chosen ?? added[0]);
  askNext();
}

async function askNext() {
  const one = cases.find((each) => each.state === "waiting");
  if (!one || asking >= AT_ONCE) return;
  asking += 1;
  const asked = one.ask(server, model, modelOf, changed);
  askNext();
  await asked;
  asking -= 1;
  if (cases.includes(one)) told(one);
  if (asking === 0 && !cases.some((each) => each.state === "waiting")) showHealth(server);
  askNext();
}

async function renew() {
  model = await server.get("model");
  models.set(model.digest, model);
  showModel(model);
}

// The server may go on to another model: its thresholds and classes are another's too.
async function modelOf({ digest }) {
  if (!digest || digest === model.digest) return model;
  await renew();
  const found = models.get(digest);
  if (!found) throw new Refusal(409, OTHER_MODEL);
  return found;
}

function told(one) {
  if (one.state === "refused") speak(`${one.name}: ${one.error}`);
  if (one.state !== "answered") return;
  const [name, share] = Object.entries(one.answer.probabilities).sort((a, b) => b[1] - a[1])[0];
  const doubtful = one.answer.uncertain ? ", uncertain" : "";
  speak(`${one.name}: ${decision(one.answer, one.model)}${doubtful}. Most probable: ${name}, ${percent(share)}`);
}

function remove(one) {
  const place = cases.indexOf(one);
  cases.splice(place, 1);
  one.leave();
  chosen = null;
  choose(cases[Math.min(place, cases.length - 1)] ?? null);
  speak(`Removed ${one.name}`);
  (cases.length ? byId("remove") : byId("choose")).focus();
}

function clear() {
  for (const one of cases.splice(0)) one.leave();
  choose(null);
  speak("Removed all images");
  byId("choose").focus();
}

function choose(one) {
  chosen = one;
  show();
  byId("strip").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

// -- showing ---------------------------------------------------------------------------------------------------------

function changed(one) {
  if (one === chosen) show();
  else showLists();
}

function show() {
  byId("drop").hidden = Boolean(chosen);
  byId("figure").hidden = !chosen;
  byId("workbench").classList.toggle("empty", !chosen);
  const place = byId("verdict");
  place.setAttribute("aria-busy", String(chosen?.state === "asking"));
  place.replaceChildren(chosen ? verdict(chosen) : welcome());
  if (chosen) showPicture();
  heat.look(chosen);
  showLists();
}

function showPicture() {
  const image = byId("picture");
  byId("file-name").textContent = chosen.name;
  byId("no-picture").hidden = chosen.drawable;
  byId("film").hidden = !chosen.picture;
  if (!chosen.picture || image.src === chosen.picture) return;
  image.alt = `The image ${chosen.name}`;
  image.onload = () => byId("film").style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
  image.src = chosen.picture;
}

function welcome() {
  const asked = model.task === "binary"
    ? `Does the image show ${model.positive}? This model answers with a probability`
    : `This model answers with a probability for each of ${model.classes.length} classes`;
  const warning = "It has an answer for any picture, also for one of another body part. "
    + "Only you see whether the question fits the image.";
  return element("div", { className: "welcome" }, element("p", { className: "eyebrow" }, "No image yet"),
    element("p", { className: "reason" }, `${asked}, and says when it is uncertain.`),
    element("p", { className: "fine" }, warning));
}

function showLists() {
  const strip = byId("strip");
  const within = ["strip", "results-rows"].find((id) => byId(id).contains(document.activeElement));
  strip.hidden = cases.length < 2;
  byId("workbench").classList.toggle("several", cases.length > 1);
  strip.replaceChildren(...cases.map((one) => thumbnail(one)));
  showResults(cases, model, chosen, choose);
  // What had the keyboard's focus was made anew.
  if (within) byId(within).querySelector("button[aria-current], [aria-current] button")?.focus();
}

function thumbnail(one) {
  const text = { waiting: "waiting", asking: "…", refused: "not readable" }[one.state]
    ?? decision(one.answer, one.model);
  const button = element("button", { type: "button", className: `thumb ${one.state}` });
  if (one.picture) button.append(element("img", { src: one.picture, alt: "", loading: "lazy" }));
  else button.append(element("span", { className: "blank", "aria-hidden": "true" }));
  button.append(
    element("span", { className: "spoken" }, `${one.name}: `), element("span", { className: "outcome" }, text));
  if (one.answer?.uncertain) button.append(element("span", { className: "tag" }, "uncertain"));
  if (one === chosen) button.setAttribute("aria-current", "true");
  button.title = one.name;
  button.addEventListener("click", () => choose(one));
  return element("li", {}, button);
}

// -- what people do --------------------------------------------------------------------------------------------------

const files = byId("files");
files.addEventListener("change", () => {
  add(files.files);
  files.value = ""; // so that the same file can be chosen again
});
for (const id of ["choose", "add"]) byId(id).addEventListener("click", () => files.click());
byId("remove").addEventListener("click", () => remove(chosen));
byId("clear").addEventListener("click", clear);
byId("sign-out").addEventListener("click", signOut);
byId("about-close").addEventListener("click", () => byId("about").close());
byId("about-open").addEventListener("click", () => {
  fillAbout(model);
  byId("about").showModal();
});
byId("download").addEventListener("click", () => {
  const address = URL.createObjectURL(new Blob([csv(cases, model)], { type: "text/csv" }));
  element("a", { href: address, download: "medimg-answers.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
});
byId("strip").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const next = step && cases[cases.indexOf(chosen) + step];
  if (!next) return;
  event.preventDefault();
  choose(next);
});
document.addEventListener("paste", (event) => add(event.clipboardData.files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  byId("stage").classList.add("over");
});
document.addEventListener("dragleave", (event) => event.relatedTarget ?? byId("stage").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault(); // the browser would leave the page and open the file
  byId("stage").classList.remove("over");
  add(event.dataTransfer.files);
});

start();
