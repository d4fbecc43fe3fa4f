// What spoke for a class: the network's own map in colour over the picture, asked for when somebody wants it.

import { byId, element, speak } from "./elements.js";
import { OTHER_MODEL, Refusal } from "./server.js";

// Dark violet to yellow, which everybody tells apart and a printer keeps in order; each with red, green and blue.
const COLOURS = [
  [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66],
  [245, 125, 21], [250, 193, 39], [252, 255, 164],
];

export class Heat {
  constructor(server) {
    this.server = server;
    this.on = false;
    this.one = null;
    this.canvas = byId("heat");
    byId("heat-switch").addEventListener("click", () => this.turn(!this.on));
    byId("heat-class").addEventListener("change", () => this.show());
    byId("heat-opacity").addEventListener("input", () => this.fade());
    this.fade();
  }

  /** Takes the classes of a model. */
  of(model) {
    this.model = model;
    this.explains = Boolean(model.explains);
    byId("explain").hidden = !this.explains;
    byId("heat-class").replaceChildren(...model.classes.map((name) => element("option", { value: name }, name)));
  }

  /** Goes on to another image: to the class that was decided on. */
  look(one) {
    if (this.one === one && this.seen === one?.state) return;
    this.one = one;
    this.seen = one?.state;
    const answered = one?.state === "answered";
    if (answered && this.model !== one.model) this.of(one.model);
    byId("explain").hidden = !this.explains || !answered;
    if (answered) byId("heat-class").value = one.answer.positives[0] ?? one.model.positive ?? one.answer.label;
    this.show();
  }

  turn(on) {
    this.on = on;
    byId("heat-switch").setAttribute("aria-pressed", String(on));
    this.show();
  }

  fade() {
    this.canvas.style.opacity = String(byId("heat-opacity").value / 100);
  }

  async show() {
    const { one } = this;
    const target = byId("heat-class").value;
    for (const part of document.querySelectorAll("#explain .of, #explain .slide")) part.hidden = !this.on;
    this.canvas.hidden = true;
    this.say(this.on ? "" : "Shows which places spoke for a class.");
    if (!this.on || one?.state !== "answered") return;
    const stays = () => this.on && this.one === one && byId("heat-class").value === target;
    let map = one.maps.get(target);
    if (!map) {
      const started = Date.now();
      const clock = setInterval(() => stays() && this.say(waiting(started)), 500);
      this.say(waiting(started));
      speak(`Asking for the heat map of ${target}`);
      try {
        const path = `explain?class=${encodeURIComponent(target)}`;
        map = await this.server.post(path, one.file, { signal: one.left.signal });
        if (map.digest !== one.answer.digest) throw new Refusal(409, OTHER_MODEL);
        one.maps.set(target, map);
      } catch (error) {
        const why = error instanceof Refusal ? error.message : "There is no map: the server did not answer.";
        if (stays()) this.tell(why);
        return;
      } finally {
        clearInterval(clock);
      }
    }
    if (!stays()) return;
    await paint(this.canvas, map.heat);
    if (!stays()) return;
    this.canvas.hidden = false;
    this.tell(map.message);
  }

  tell(text) {
    this.say(text);
    speak(text);
  }

  say(text) {
    byId("heat-said").textContent = text;
  }
}

function waiting(started) {
  const seconds = Math.round((Date.now() - started) / 1000);
  return seconds < 2 ? "Asking the network…" : `Asking the network… ${seconds} s. The first map takes about ten.`;
}

// Draws a grey PNG, in base64, in colour; dark is transparent.
async function paint(canvas, png) {
  const bytes = Uint8Array.from(atob(png), (letter) => letter.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const pixels = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const { data } = pixels;
  for (let at = 0; at < data.length; at += 4) {
    const value = data[at] / 255;
    const place = value * (COLOURS.length - 1);
    const low = Math.min(Math.floor(place), COLOURS.length - 2);
    for (let channel = 0; channel < 3; channel += 1) {
      const [from, to] = [COLOURS[low][channel], COLOURS[low + 1][channel]];
      data[at + channel] = from + (to - from) * (place - low);
    }
    data[at + 3] = 255 * value;
  }
  context.putImageData(pixels, 0, 0);
}
