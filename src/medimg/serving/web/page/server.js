// Asks the server, and goes on asking where it is busy, out of reach, or wants a key.

const PATIENCE_MS = 5 * 60_000; // of a request that is told to come again
const LONGEST_PAUSE_S = 20;

/** What is said where the server's models do not fit together. */
export const OTHER_MODEL = "The server went on to another model. Remove the image and add it again.";

/** An answer that will not get better by asking again. */
export class Refusal extends Error {
  constructor(status, message, code = "") {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export class Server {
  /**
   * @param {(ended: boolean) => Promise<void>} signIn asks for a key and ends when there is a session
   * @param {(text: string) => void} told gets what keeps the whole page waiting, or ""
   */
  constructor(signIn, told) {
    this.signIn = signIn;
    this.told = told;
    this.signing = null;
    this.wasIn = false;
  }

  /** Returns the JSON of a GET. */
  async get(path, options = {}) {
    return (await this.ask(path, { ...options, method: "GET" })).json();
  }

  /** Returns the JSON of an image posted to a path. */
  async post(path, image, options = {}) {
    const headers = { "Content-Type": "application/octet-stream" };
    return (await this.ask(path, { ...options, method: "POST", body: image, headers })).json();
  }

  /**
   * Returns the response of a request once it is answered.
   * @param {object} options fetch's; and onWait, which is told why it takes longer
   * @throws {Refusal} the server says no
   */
  async ask(path, { onWait = () => {}, ...options }) {
    const until = Date.now() + PATIENCE_MS;
    for (let tries = 1; ; tries += 1) {
      let response;
      try {
        response = await fetch(path.replace(/^\//, ""), { ...options, cache: "no-store", credentials: "same-origin" });
      } catch (error) {
        if (options.signal?.aborted || Date.now() > until) throw error;
        this.told("The server cannot be reached. This page goes on trying.");
        onWait("waiting for the server");
        await pause(Math.min(2 ** (tries - 1), LONGEST_PAUSE_S), options.signal);
        continue;
      }
      this.told("");
      if (response.ok) {
        this.wasIn = true;
        onWait("");
        return response;
      }
      if (response.status === 401) {
        await this.session();
        continue;
      }
      const said = await response.json().catch(() => ({}));
      if ((response.status === 503 || response.status === 429) && Date.now() < until) {
        const seconds = Math.min(Number(response.headers.get("Retry-After")) || 1, LONGEST_PAUSE_S);
        onWait(response.status === 429 ? "asked too often, waiting" : "the server is busy, waiting");
        // Not all at the same moment, and later each time.
        await pause(seconds * (1 + Math.random() * Math.min(tries, 4)), options.signal);
        continue;
      }
      const text = said.error ?? said.message ?? `The server answered ${response.status}. Try again later.`;
      throw new Refusal(response.status, String(text), said.code ?? "");
    }
  }

  /** Waits for one sign-in, however many requests want it. */
  session() {
    this.signing ??= this.signIn(this.wasIn).finally(() => { this.signing = null; });
    return this.signing;
  }
}

/** Opens a session; returns "" or why there is none. */
export async function openSession(key) {
  try {
    const response = await fetch("session", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ key }),
      credentials: "same-origin",
    });
    if (response.ok) return "";
    if (response.status === 401 || response.status === 403) return "This key is not right, or no longer valid.";
    if (response.status === 429) return "Too many wrong keys were tried. Wait a minute and try again.";
    const said = await response.json().catch(() => ({}));
    return String(said.error ?? `The server answered ${response.status}. Try again.`);
  } catch {
    return "The server cannot be reached. Try again.";
  }
}

/** Ends the session. */
export const closeSession = () => fetch("session", { method: "DELETE", credentials: "same-origin" }).catch(() => {});

function pause(seconds, signal) {
  return new Promise((done) => {
    const end = () => {
      clearTimeout(timer);
      window.removeEventListener("online", end);
      done();
    };
    const timer = setTimeout(end, seconds * 1000);
    window.addEventListener("online", end);
    signal?.addEventListener("abort", end);
  });
}
