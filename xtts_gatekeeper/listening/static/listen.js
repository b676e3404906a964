"use strict";

/** The page: who listens, one trial after the other, and thanks. */
class Page {
  static #STATES = {
    saving: "Saving…",
    saved: "Saved",
    failing: "Not saved, trying again",
    kept: "Kept in this browser",
    loose: "Not kept: save your answers before you close this page",
  };

  #store;
  #session = null;
  #complete = new Set();
  #index = 0;
  #view = null;
  #asked = false;

  constructor() {
    const tell = (state, sentence) => this.#tellKept(state, sentence);
    const offline = document.getElementById("offline");
    this.#store = offline
      ? new OfflineStore(JSON.parse(offline.textContent), tell)
      : new OnlineStore(document.querySelector("meta[name=csrf]").content, tell);
    this.#listen();
  }

  /** Go on where this tab was, or ask who listens. */
  async start() {
    const { remembered } = this.#store;
    if (remembered) await this.#begin(remembered);
    else this.#ask();
  }

  #listen() {
    this.#on(".who", "submit", (event) => {
      event.preventDefault();
      this.#begin(this.#find("#listener").value.trim());
    });
    this.#on(".next", "click", () => this.#move(1));
    this.#on(".back", "click", () => this.#move(-1));
    this.#on(".show-keys", "click", () => this.#showKeys());
    this.#find(".other-listener").textContent = this.#store.otherListener;
    this.#on(".other-listener", "click", () => this.#leaveListener());
    for (const button of this.#saveButtons) button.addEventListener("click", () => this.#saveFile());
    document.addEventListener("keydown", (event) => this.#press(event));
    addEventListener("online", () => this.#store.flush());
    addEventListener("pagehide", () => this.#store.leave());
    addEventListener("beforeunload", (event) => {
      if (this.#store.atRisk) event.preventDefault();
    });
  }

  #ask() {
    this.#show("start");
    this.#find("#listener").focus();
  }

  async #begin(listener) {
    const error = this.#find("#listener-error");
    error.textContent = "";
    try {
      this.#session = await this.#store.session(listener);
    } catch (failure) {
      this.#find("#listener").value = listener;
      this.#ask();
      const refused = failure instanceof Refused;
      error.textContent = refused ? failure.message : "The server does not answer. Is it still running?";
      return;
    }
    this.#find(".listener").textContent = this.#session.listener;
    this.#prepareKeys();
    const { trials, answers } = this.#session;
    this.#complete = new Set(trials.filter((trial) => this.#isComplete(trial, answers[trial.id])).map(({ id }) => id));
    if (this.#firstOpen < 0) await this.#finish();
    else this.#open(this.#firstOpen);
  }

  #leaveListener() {
    this.#store.forget();
    location.reload();
  }

  get #firstOpen() {
    return this.#session.trials.findIndex(({ id }) => !this.#complete.has(id));
  }

  #isComplete(trial, answer) {
    const whole = wholeAnswer(answer);
    return missing(trial, whole, this.#session.rows, heardBefore(whole)).length === 0;
  }

  #open(index) {
    this.#close();
    this.#index = index;
    const { trials, answers } = this.#session;
    const trial = trials[index];
    this.#view = new TrialView(this.#find(".trial"), {
      trial,
      answer: answers[trial.id],
      session: this.#session,
      audio: (token) => this.#store.audio(token),
      changed: (answer) => this.#changed(trial, answer),
      heard: () => this.#showMissing(),
      say: (sentence) => this.#say(sentence),
    });
    const title = `Sentence ${index + 1} of ${trials.length}`;
    this.#find("#trial-title").textContent = title;
    this.#find(".back").disabled = index === 0;
    this.#find(".next").textContent = index + 1 < trials.length ? "Next" : "Finish";
    this.#show("trial");
    this.#asked = false;
    this.#showMissing();
    this.#find("#trial-title").focus({ preventScroll: true });
    scrollTo(0, 0);
    this.#say(title);
  }

  #close() {
    this.#view?.dispose();
    this.#view = null;
  }

  #changed(trial, answer) {
    this.#session.answers[trial.id] = answer;
    this.#store.change(trial.id, answer);
    if (this.#isComplete(trial, answer)) this.#complete.add(trial.id);
    this.#showMissing();
  }

  #move(by) {
    if (by > 0 && this.#view.missing.length) {
      this.#asked = true;
      this.#showMissing();
      this.#view.goToMissing();
      return;
    }
    const { trials } = this.#session;
    if (by < 0 && this.#index === 0) return;
    if (this.#index + by < trials.length) this.#open(this.#index + by);
    else if (this.#firstOpen >= 0) this.#open(this.#firstOpen);
    else this.#finish();
  }

  /** Whoever wants to go on too early is told what is missing, and then as it becomes less. */
  #showMissing() {
    const { missing } = this.#view;
    this.#find(".missing").textContent = this.#asked && missing.length ? `Still to do: ${missing.join("; ")}.` : "";
    this.#find(".next").classList.toggle("ready", missing.length === 0);
    this.#showProgress();
  }

  async #finish() {
    this.#close();
    this.#show("thanks");
    this.#showProgress();
    this.#find("#thanks-title").focus();
    const lead = this.#find(".thanks .lead");
    lead.textContent = "Your last answers are being saved…";
    await this.#store.flush();
    let result;
    try {
      result = await this.#store.result();
    } catch (failure) {
      lead.textContent = `Everything is saved. The result could not be had: ${failure.message}`;
      return;
    }
    lead.textContent = result
      ? "Everything is saved. This is what you heard:"
      : "That was the last sentence. Save your answers as a file, and send it back to whoever gave you this page.";
    if (result) showResult(this.#find(".thanks"), result, this.#session.rows);
  }

  #press(event) {
    if (!this.#view || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (this.#find(".keys").open) return;
    const page = { move: (by) => this.#move(by), showKeys: () => this.#showKeys() };
    const act = actionOf(event, this.#view, page);
    if (!act) return;
    event.preventDefault();
    act();
  }

  #prepareKeys() {
    const samples = this.#session.trials.flatMap(({ stimuli }) => stimuli);
    const labels = [...new Set(samples.map(({ label }) => label))].sort();
    const letters = faultLetters(this.#session.faults, labels);
    this.#session.faults = this.#session.faults.map((fault, place) => ({ ...fault, letter: letters[place] }));
    const caps = (keys) => keys.flatMap((key) => {
      const cap = document.createElement("kbd");
      cap.textContent = key.toUpperCase();
      return [cap, " "];
    });
    this.#find(".key-letters").replaceChildren(...caps(labels));
    this.#find(".key-faults dt").replaceChildren(...caps(letters.filter(Boolean)));
  }

  #showKeys() {
    this.#find(".keys").showModal();
  }

  #show(name) {
    for (const page of document.querySelectorAll(".page")) page.hidden = !page.classList.contains(name);
    const begun = name !== "start";
    this.#find(".bar").hidden = !begun;
    this.#find(".foot").hidden = !begun;
    this.#find(".show-keys").hidden = name !== "trial";
    this.#find(".moves").hidden = name !== "trial";
    for (const button of this.#saveButtons) button.hidden = !begun || !this.#store.file;
  }

  #showProgress() {
    const bar = this.#find(".progress");
    bar.max = this.#session.trials.length;
    bar.value = this.#complete.size;
  }

  #saveFile() {
    const { name, text } = this.#store.file();
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = name;
    link.click();
    this.#say("Your answers were saved as a file.");
  }

  #tellKept(state, sentence) {
    const kept = this.#find(".kept");
    const text = Page.#STATES[state] + (sentence ? `: ${sentence}` : "");
    if (kept.dataset.state !== state || kept.textContent !== text) {
      kept.dataset.state = state;
      kept.textContent = text;
      if (state !== "saving") this.#find("#said-of-saving").textContent = text;
    }
  }

  #say(sentence) {
    this.#find("#said").textContent = sentence;
  }

  #on(selector, event, act) {
    this.#find(selector).addEventListener(event, act);
  }

  get #saveButtons() {
    return document.querySelectorAll(".save-file");
  }

  #find(selector) {
    return document.querySelector(selector);
  }
}

new Page().start();
