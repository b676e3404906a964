"use strict";

/** The server of this page. Every method rejects with Refused, or with another error where no answer came. */
class Server {
  static #PATIENCE_MS = 15000;
  #csrf;

  constructor(csrf) {
    this.#csrf = csrf;
  }

  session(listener) {
    return this.#ask(`/api/session?listener=${encodeURIComponent(listener)}`);
  }

  result(listener) {
    return this.#ask(`/api/result?listener=${encodeURIComponent(listener)}`);
  }

  async save(listener, trial, answer) {
    const post = () => this.#ask("/api/answer", {
      method: "POST",
      // It arrives even when the page is closed meanwhile.
      keepalive: true,
      headers: { "Content-Type": "application/json", "X-CSRF-Token": this.#csrf },
      body: JSON.stringify({ listener, trial, answer }),
    });
    try {
      return await post();
    } catch (error) {
      // A server that was started anew knows other tokens.
      if (!(error instanceof Refused) || error.status !== 403 || !(await this.#renewed())) throw error;
      return post();
    }
  }

  async #ask(path, options = {}) {
    const response = await fetch(path, { ...options, signal: AbortSignal.timeout(Server.#PATIENCE_MS) });
    if (response.ok) return response.json();
    const body = await response.json().catch(() => null);
    throw new Refused(response.status, body?.error ?? `The server answers ${response.status}.`);
  }

  /** Whether the server's page has a CSRF token that is not ours; it is taken over. */
  async #renewed() {
    const response = await fetch("/", { signal: AbortSignal.timeout(Server.#PATIENCE_MS) });
    if (!response.ok) return false;
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const csrf = page.querySelector("meta[name=csrf]")?.content;
    if (!csrf || csrf === this.#csrf) return false;
    this.#csrf = csrf;
    return true;
  }
}

/** Where the answers of this page go to: the server that it came from. */
class OnlineStore {
  /** What asking for another name is for. */
  otherListener = "Somebody else";

  #drafts = new Drafts("xtts-gatekeeper-listening:");
  #server;
  #saver;
  #listener = "";

  /** `tell(state, sentence)`: see Saver. */
  constructor(csrf, tell) {
    this.#server = new Server(csrf);
    const post = (trial, answer) => this.#server.save(this.#listener, trial, answer);
    this.#saver = new Saver(post, this.#drafts, tell);
  }

  /** Who listened in this tab before it was loaded again. */
  get remembered() {
    return tabMemory.get();
  }

  /** Whether closing the page now would lose something. */
  get atRisk() {
    return this.#saver.unsaved > 0 && !this.#drafts.works;
  }

  async session(listener) {
    const session = await this.#server.session(listener);
    this.#listener = session.listener;
    tabMemory.set(session.listener);
    const { answers, newer } = this.#drafts.over(session.answers, session.trials);
    for (const trial of newer) this.#saver.change(trial, answers[trial]);
    return { ...session, answers };
  }

  change(trial, answer) {
    this.#saver.change(trial, answer);
  }

  flush() {
    return this.#saver.flush();
  }

  leave() {
    this.#saver.leave();
  }

  forget() {
    tabMemory.set("");
  }

  /** What the listener's answers say, once all of them are there. */
  result() {
    return this.#server.result(this.#listener);
  }

  audio(token) {
    return `/audio/${token}`;
  }
}

/** A page without a server: the answers stay in this browser until they are saved as a file. */
class OfflineStore {
  /** What asking for another name is for: the answers stay. */
  otherListener = "Another name";

  #document;
  #drafts;
  #tell;
  #answers = {};
  #listener = "";

  constructor(document, tell) {
    this.#document = document;
    this.#drafts = new Drafts(`xtts-gatekeeper-listening:${document.copy}:`);
    this.#tell = tell;
  }

  get remembered() {
    return this.#drafts.read("listener") ?? "";
  }

  get atRisk() {
    return !this.#drafts.works;
  }

  async session(listener) {
    this.#listener = listener;
    this.#drafts.write("listener", listener);
    this.#answers = this.#drafts.over({}, this.#document.trials).answers;
    this.#told();
    return { ...this.#document, listener, answers: this.#answers };
  }

  change(trial, answer) {
    this.#answers[trial] = answer;
    this.#drafts.write(trial, answer);
    this.#told();
  }

  async flush() {}

  leave() {}

  forget() {
    this.#drafts.drop("listener");
  }

  async result() {
    return null;
  }

  audio(token) {
    return this.#document.audio[token];
  }

  /** What `listen --import` reads: the name of a file and its text. */
  file() {
    const { session, copy } = this.#document;
    const format = { format: "xtts-gatekeeper-listening", version: 1 };
    const document = { ...format, session, copy, listener: this.#listener, answers: this.#answers };
    return { name: `answers-${copy.slice(0, 8)}.json`, text: JSON.stringify(document, null, 1) };
  }

  #told() {
    this.#tell(this.#drafts.works ? "kept" : "loose", "");
  }
}

/** One name for as long as the tab is open: two listeners can use two tabs of a browser. */
const tabMemory = {
  get() {
    try {
      return sessionStorage.getItem("listener") ?? "";
    } catch {
      return "";
    }
  },
  set(name) {
    try {
      sessionStorage.setItem("listener", name);
    } catch {
      // Without it the name is asked for again.
    }
  },
};
