// One image on the page: its file, how far it is, and what was said of it.

import { Refusal } from "./server.js";

// What to do about an image that is refused, where the server's own words only say what is wrong with it.
const REMEDIES = {
  "not-an-image": "Choose a picture: JPEG, PNG, TIFF, WebP, BMP, GIF or DICOM.",
  unsupported: "Save it as PNG or JPEG and add it again.",
  "too-large": "Make it smaller, or save it as JPEG.",
  "too-slow": "Save it anew as PNG or JPEG, or make it smaller.",
};

let count = 0;

/**
 * State is "waiting", "asking", "answered" or "refused".
 */
export class Case {
  constructor(file) {
    this.id = ++count;
    this.file = file;
    this.name = file.name || "pasted image";
    this.state = "waiting";
    this.remark = ""; // why it takes longer
    this.answer = null;
    this.model = null; // that gave the answer
    this.error = ""; // what is wrong with it
    this.remedy = "";
    this.picture = ""; // the address of what the browser draws; "" while that is not known
    this.drawable = true;
    this.maps = new Map(); // class to explanation
    this.left = new AbortController();
  }

  /**
   * Asks the server what the image shows.
   * @param {Server} server
   * @param {object} model that the server had last
   * @param {(answer: object) => Promise<object>} modelOf finds the model that gave an answer
   * @param {(one: Case) => void} changed is told when there is something new to show
   */
  async ask(server, model, modelOf, changed) {
    this.state = "asking";
    changed(this);
    try {
      const most = model.limits?.body_bytes;
      if (most && this.file.size > most) {
        throw new Refusal(413, `is larger than the ${size(most)} that this server takes`, "too-large");
      }
      const onWait = (text) => {
        this.remark = text;
        changed(this);
      };
      const answer = await server.post("predict", this.file, { onWait, signal: this.left.signal });
      this.model = await modelOf(answer);
      this.answer = answer;
      this.state = "answered";
    } catch (error) {
      if (this.left.signal.aborted) return;
      this.state = "refused";
      this.error = error instanceof Refusal ? sentence(error)
        : "The server could not be reached for five minutes. Remove the image and add it again later.";
      this.remedy = /\. \S/.test(this.error) ? "" : REMEDIES[error.code] ?? "";
    }
    this.remark = "";
    changed(this);
  }

  /** Finds a picture to show: the file itself, or where no browser draws it what the server makes of it. */
  async draw(server, changed) {
    let address = URL.createObjectURL(this.file);
    if (!(await canDraw(address))) {
      URL.revokeObjectURL(address);
      address = "";
      try {
        const headers = { "Content-Type": "application/octet-stream" };
        const options = { method: "POST", body: this.file, headers, signal: this.left.signal };
        const made = await server.ask("picture", options);
        address = URL.createObjectURL(await made.blob());
      } catch {
        this.drawable = false; // the answer, or the reason why there is none, is shown without it
      }
    }
    if (this.left.signal.aborted && address) URL.revokeObjectURL(address);
    else this.picture = address;
    changed(this);
  }

  /** Stops asking and lets go of the picture. */
  leave() {
    this.left.abort();
    if (this.picture) URL.revokeObjectURL(this.picture);
  }
}

async function canDraw(address) {
  const image = new Image();
  image.src = address;
  try {
    await image.decode();
    return true;
  } catch {
    return false;
  }
}

/** Returns a number of bytes as people write it. */
export function size(bytes) {
  if (bytes >= 2 ** 20) return `${(bytes / 2 ** 20).toFixed(bytes < 10 * 2 ** 20 ? 1 : 0)} MB`;
  return bytes >= 1024 ? `${Math.round(bytes / 1024)} KB` : `${bytes} bytes`;
}

// The server says "is not an image …", as it does not know the file's name.
function sentence(refusal) {
  const text = refusal.message.trim().replace(/[^.!?]$/, "$&.");
  return /^(is|has|ends|cannot|could|would)\b/.test(text) ? `This file ${text}` : text;
}
