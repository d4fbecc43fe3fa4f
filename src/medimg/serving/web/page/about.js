// The model, its state, and who may ask it.

import { byId, element, percent } from "./elements.js";
import { markdown } from "./markdown.js";
import { closeSession, openSession } from "./server.js";

/** Shows which model answers. */
export function showModel(model) {
  const name = model.version || model.name || "model";
  document.title = `${name} · medimg`;
  byId("model-name").textContent = name;
  const asked = { binary: `looks for ${model.positive}`, multilabel: `${model.classes.length} findings` }[model.task];
  byId("model-facts").textContent = [
    asked ?? `${model.classes.length} classes`, model.where, (model.digest ?? "").slice(0, 8),
  ].filter(Boolean).join(" · ");
  byId("about-open").hidden = false;
  byId("sign-out").hidden = model.auth !== "key";
}

/** Fills the dialog about the model. */
export function fillAbout(model) {
  const rows = [
    ["Name", model.version || model.name], ["Runs", model.where || "on this server"],
    ["Classes", model.classes.join(", ")],
    ["Thresholds", Object.entries(model.thresholds ?? {})
      .map(([name, limit]) => `${name} ${percent(limit)}`).join(", ")],
    ["Uncertain", Object.entries(model.uncertain ?? {})
      .map(([name, [low, high]]) => `${name} ${percent(low, high)} to ${percent(high, low)}`).join(", ")],
    ["Digest", model.digest],
  ].filter(([, value]) => value);
  const parts = [element("dl", { className: "facts" },
    ...rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]))];
  if (model.card) parts.push(markdown(model.card));
  else {
    parts.push(element("p", {}, "This server has no model card; the model's folder has it as card.md."));
    if (model.notices?.length) {
      parts.push(element("ul", {}, ...model.notices.map((notice) => element("li", {}, notice))));
    }
  }
  byId("about-body").replaceChildren(...parts);
}

/** Asks how the model fares, and says so where the images are unlike those of validation. */
export async function showHealth(server) {
  let health;
  try {
    health = await server.get("health");
  } catch {
    return; // a server without monitoring, such as one in front of a cloud's endpoint
  }
  const bar = byId("alarm");
  bar.hidden = health.status !== "alarm";
  document.body.classList.toggle("alarm", !bar.hidden);
  const told = JSON.stringify([health.message, health.measures]);
  if (bar.hidden || bar.dataset.told === told) return; // made anew it would close what somebody has opened
  bar.dataset.told = told;
  const alarms = (health.measures ?? []).filter((measure) => measure.alarm && measure.message);
  bar.replaceChildren(
    element("strong", {}, "Warning: "),
    health.message || "The images are unlike those that the model was checked on. Do not rely on its answers.");
  if (alarms.length) {
    bar.append(element("details", {}, element("summary", {}, "What differs"),
      element("ul", {}, ...alarms.map((measure) => element("li", {}, measure.message)))));
  }
}

/** Asks for a key until there is a session. */
export function signIn(ended) {
  const dialog = byId("sign-in");
  const form = byId("sign-in-form");
  const key = byId("key");
  byId("sign-in-why").textContent = ended
    ? "Your session has ended. Your images are still here." : "This server answers those who have a key.";
  byId("sign-in-error").textContent = "";
  dialog.classList.toggle("first", !ended);
  dialog.showModal();
  key.focus();
  return new Promise((done) => {
    // Nothing on the page works without a session. To prevent "cancel" would not do: Escape closes what was opened
    // without a click or a key all the same.
    const again = () => {
      dialog.showModal();
      key.focus();
    };
    const send = async (event) => {
      event.preventDefault();
      byId("sign-in-send").disabled = true;
      const why = await openSession(key.value.trim());
      byId("sign-in-send").disabled = false;
      byId("sign-in-error").textContent = why;
      key.toggleAttribute("aria-invalid", Boolean(why));
      if (why) {
        key.select();
        return;
      }
      key.value = "";
      dialog.removeEventListener("close", again);
      form.removeEventListener("submit", send);
      dialog.close();
      done();
    };
    dialog.addEventListener("close", again);
    form.addEventListener("submit", send);
  });
}

/** Ends the session and forgets all images. */
export async function signOut() {
  await closeSession();
  location.reload();
}
