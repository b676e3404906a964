"use strict";

/** The server said no: `status` is that of HTTP, the message is its sentence. */
class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Answers by trial in this browser's own storage, for as long as they are nowhere else. */
class Drafts {
  #prefix;

  /** `works`: false once the browser has refused to keep something. */
  works = true;

  constructor(prefix) {
    this.#prefix = prefix;
  }

  read(trial) {
    try {
      return JSON.parse(localStorage.getItem(this.#prefix + trial));
    } catch {
      return null;
    }
  }

  write(trial, answer) {
    try {
      localStorage.setItem(this.#prefix + trial, JSON.stringify(answer));
      this.works = true;
    } catch {
      this.works = false;
    }
  }

  drop(trial) {
    try {
      localStorage.removeItem(this.#prefix + trial);
    } catch {
      this.works = false;
    }
  }

  /**
   * The answers of a session, those in this browser included.
   * Where both know a trial, the one on which more time was spent is the later one.
   */
  over(answers, trials) {
    const found = { ...answers };
    const newer = [];
    for (const { id } of trials) {
      const draft = this.read(id);
      if (draft && !(found[id]?.seconds > draft.seconds)) {
        found[id] = draft;
        newer.push(id);
      }
    }
    return { answers: found, newer };
  }
}

/**
 * Brings answers to the server, again and again until it has them; until then they are drafts in this browser.
 *
 * `tell(state, sentence)` hears of every change: "saving", "saved", or "failing", with what the server says if it does.
 */
class Saver {
  static #DEBOUNCE_MS = 400;
  static #FIRST_WAIT_MS = 500;
  static #LONGEST_WAIT_MS = 3000;

  #post;
  #drafts;
  #tell;
  #pending = new Map();
  #inFlight = null;
  #running = null;
  #timer = 0;
  #wake = () => {};

  /** `post(trial, answer)` resolves once the answer is on disk. */
  constructor(post, drafts, tell) {
    this.#post = post;
    this.#drafts = drafts;
    this.#tell = tell;
  }

  get unsaved() {
    return this.#pending.size;
  }

  change(trial, answer) {
    this.#drafts.write(trial, answer);
    this.#pending.set(trial, answer);
    if (!this.#running) this.#tell("saving");
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.flush(), Saver.#DEBOUNCE_MS);
  }

  /** Send what there is now; resolves once all of it is saved, however long that takes. */
  flush() {
    clearTimeout(this.#timer);
    this.#wake();
    this.#running ??= this.#run().finally(() => {
      this.#running = null;
    });
    return this.#running;
  }

  /** The page is being closed: nobody waits for what this sends. */
  leave() {
    for (const [trial, answer] of this.#pending) {
      if (answer !== this.#inFlight) this.#post(trial, answer).catch(() => {});
    }
  }

  async #run() {
    let wait = Saver.#FIRST_WAIT_MS;
    while (this.#pending.size) {
      const trouble = await this.#sendAll();
      if (trouble) {
        this.#tell("failing", trouble instanceof Refused ? trouble.message : "");
        await this.#pause(wait);
        wait = Math.min(2 * wait, Saver.#LONGEST_WAIT_MS);
      } else {
        wait = Saver.#FIRST_WAIT_MS;
      }
    }
    this.#tell("saved");
  }

  /** One attempt at everything; returns the last error. That one answer is refused keeps no other from being sent. */
  async #sendAll() {
    let trouble = null;
    for (const [trial, answer] of [...this.#pending]) {
      this.#inFlight = answer;
      try {
        await this.#post(trial, answer);
        if (this.#pending.get(trial) === answer) {
          this.#pending.delete(trial);
          this.#drafts.drop(trial);
        }
      } catch (error) {
        trouble = error;
      } finally {
        this.#inFlight = null;
      }
    }
    return trouble;
  }

  #pause(milliseconds) {
    return new Promise((done) => {
      const timer = setTimeout(done, milliseconds);
      this.#wake = () => {
        clearTimeout(timer);
        done();
      };
    });
  }
}
