"use strict";

/**
 * The page of one trial. One sample is the chosen one and one of its rows the current one: keys mean these.
 *
 * `audio(token)`: where its sound is; `changed(answer)` is called after each change, `heard()` when a sample was played
 * for the first time; `say(sentence)` speaks to whoever does not see the page.
 */
class TrialView {
  #page;
  #trial;
  #session;
  #answer;
  #heard;
  #stopwatch;
  #changed;
  #tellHeard;
  #say;
  #samples;
  #questions;
  #room;
  #chosen = 0;
  #row = 0;

  constructor(page, { trial, answer, session, audio, changed, heard, say }) {
    this.#page = page;
    this.#trial = trial;
    this.#session = session;
    this.#answer = wholeAnswer(answer);
    this.#heard = heardBefore(this.#answer);
    this.#stopwatch = new Stopwatch(this.#answer.seconds);
    this.#changed = changed;
    this.#tellHeard = heard;
    this.#say = say;
    const sentence = page.querySelector(".sentence");
    sentence.textContent = trial.text;
    sentence.lang = trial.language;
    this.#samples = trial.stimuli.map((stimulus, index) => this.#sample(stimulus, index, audio));
    this.#questions = this.#legend();
    const stimuli = page.querySelector(".stimuli");
    stimuli.style.setProperty("--count", this.#samples.length);
    stimuli.replaceChildren(this.#questions, ...this.#samples.map(({ root }) => root));
    this.#room = this.#roomFor(this.#samples.length);
    this.#preference();
    this.#point(0, this.#firstUnmarked(0));
  }

  /** What was answered until now. */
  get answer() {
    return structuredClone({ ...this.#answer, seconds: this.#stopwatch.seconds });
  }

  /** What is still to do, as the parts of a sentence. */
  get missing() {
    return missing(this.#trial, this.#answer, this.#session.rows, this.#heard);
  }

  get labels() {
    return this.#samples.map(({ label }) => label);
  }

  /** Whether the letters of the samples answer which one is preferred. */
  get asksPreference() {
    return this.#page.querySelector(".preference").classList.contains("asking");
  }

  get #sampleChosen() {
    return this.#samples[this.#chosen];
  }

  dispose() {
    this.#room.onchange = null;
    this.#stopwatch.dispose();
    for (const { player } of this.#samples) player.dispose();
  }

  /** Choose a sample by its number; its first row without a mark becomes the current one. */
  choose(sample) {
    this.#point(sample, this.#firstUnmarked(sample));
    this.#focusRow();
    this.#say(`Sample ${this.#sampleChosen.label}`);
  }

  /** Go `by` rows down. */
  step(by) {
    const last = this.#session.rows.length - 1;
    this.#point(this.#chosen, Math.min(Math.max(this.#row + by, 0), last));
    this.#focusRow();
  }

  play({ fromStart }) {
    const { player } = this.#sampleChosen;
    if (fromStart) player.restart();
    else player.toggle();
  }

  /** Mark the current row and go on to the next. */
  mark(value) {
    this.#sampleChosen.mark(this.#row, value);
    this.#say(`${this.#session.rows[this.#row].name} of ${this.#sampleChosen.label}: ${value}`);
    this.step(1);
  }

  /** Tick or untick the fault of a letter in the chosen sample. */
  tick(letter) {
    this.#say(`${this.#sampleChosen.label}: ${this.#sampleChosen.tick(letter)}`);
  }

  hasFault(letter) {
    return this.#sampleChosen.hasFault(letter);
  }

  writeNote() {
    this.#sampleChosen.note.focus();
  }

  /** Go back from a text field or the preference to the current row. */
  leave() {
    this.#ask(false);
    this.#focusRow();
  }

  askPreference() {
    if (!this.#trial.preference) return;
    this.#ask(true);
    this.#page.querySelector(".preference").focus();
  }

  /** Prefer a sample by its number, or none by -1. */
  prefer(sample) {
    const token = this.#samples[sample]?.token ?? "none";
    this.#page.querySelector(`.preference input[value="${token}"]`).click();
    this.#ask(false);
    this.#say(sample < 0 ? "No preference" : `${this.#samples[sample].label} is preferred`);
    document.querySelector(".next").focus();
  }

  /** Go to the first thing that is still to do. */
  goToMissing() {
    const { rows } = this.#session;
    const open = ({ token }) => !this.#heard.has(token) || unmarked(this.#answer, token, rows).length > 0;
    const sample = this.#samples.findIndex(open);
    if (sample < 0) this.askPreference();
    else this.choose(sample);
  }

  #sample(stimulus, index, audio) {
    const view = new SampleView(stimulus, {
      source: audio(stimulus.token),
      answer: this.#answer,
      rows: this.#session.rows,
      faults: this.#session.faults,
      changed: () => this.#changed(this.answer),
    });
    view.player.onstart = () => this.#hear(view, stimulus.token);
    view.player.onbroken = () => this.#hear(view, stimulus.token);
    view.root.addEventListener("pointerdown", () => this.#turnTo(index));
    view.root.addEventListener("focusin", ({ target }) => {
      const row = view.rows.indexOf(target.closest(".row"));
      if (row < 0) this.#turnTo(index);
      else this.#point(index, row);
    });
    return view;
  }

  /** A sample was played, or turned out to have no sound: then nobody can be asked to play it. */
  #hear(view, token) {
    view.root.dataset.heard = "";
    if (this.#heard.has(token)) return;
    this.#heard.add(token);
    this.#tellHeard();
  }

  /** The questions in a column of their own, for the eye: where there is room, no sample repeats them. */
  #legend() {
    const column = document.createElement("div");
    column.className = "questions";
    column.setAttribute("aria-hidden", "true");
    for (const { name, question, low, high } of this.#session.rows) {
      const legend = clone("question");
      legend.querySelector(".name").textContent = name;
      legend.querySelector(".question").textContent = question;
      legend.querySelector(".low").textContent = low;
      legend.querySelector(".high").textContent = high;
      column.append(legend);
    }
    for (const name of ["What is wrong?", "Note"]) {
      const heading = document.createElement("p");
      heading.className = "name";
      heading.textContent = name;
      column.append(heading);
    }
    return column;
  }

  /** Whether the window is wide enough for a column a sample, with the questions beside; more than four never fit. */
  #roomFor(samples) {
    const room = matchMedia(samples > 4 ? "not all" : `(min-width: ${19 + 15 * samples}rem)`);
    room.onchange = () => this.#page.querySelector(".stimuli").classList.toggle("beside", room.matches);
    room.onchange();
    return room;
  }

  #preference() {
    const fieldset = this.#page.querySelector(".preference");
    fieldset.hidden = !this.#trial.preference;
    const values = [...this.#samples.map(({ token, label }) => [token, label]), ["none", "No preference"]];
    const choices = values.map(([value, face]) =>
      choice("radio", "preferred", value, face, this.#answer.preferred === value),
    );
    fieldset.querySelector(".choices").replaceChildren(...choices);
    for (const one of choices) {
      one.addEventListener("change", ({ target }) => {
        this.#answer.preferred = target.value;
        this.#changed(this.answer);
      });
    }
    fieldset.onfocusout = ({ relatedTarget }) => {
      if (!fieldset.contains(relatedTarget)) this.#ask(false);
    };
    this.#ask(false);
  }

  #ask(asking) {
    this.#page.querySelector(".preference").classList.toggle("asking", asking);
  }

  #firstUnmarked(sample) {
    const { rows } = this.#session;
    const [first] = unmarked(this.#answer, this.#samples[sample].token, rows);
    return first ? rows.indexOf(first) : 0;
  }

  /** Choose a sample that was touched; one that is chosen already keeps its current row. */
  #turnTo(sample) {
    if (sample !== this.#chosen) this.#point(sample, this.#firstUnmarked(sample));
  }

  #point(sample, row) {
    this.#chosen = sample;
    this.#row = row;
    for (const [index, { root, rows }] of this.#samples.entries()) {
      root.classList.toggle("chosen", index === sample);
      for (const [place, one] of rows.entries()) one.classList.toggle("current", index === sample && place === row);
    }
    for (const [place, one] of [...this.#questions.children].entries()) one.classList.toggle("current", place === row);
  }

  #focusRow() {
    this.#sampleChosen.rows[this.#row].focus();
  }
}
