"use strict";

/** "A", "A and B", "A, B and C". */
function list(words) {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}

/** An answer with every part that one can have. */
function wholeAnswer(answer) {
  return { marks: {}, faults: {}, notes: {}, preferred: null, seconds: 0, ...structuredClone(answer ?? {}) };
}

/** The rows that a sample has no mark in. */
function unmarked(answer, token, rows) {
  return rows.filter(({ key }) => !answer.marks[token]?.[key]);
}

/**
 * What is still to do before a trial is complete, as the parts of a sentence; empty when it is.
 * `heard`: the tokens of the samples that were played.
 */
function missing(trial, answer, rows, heard) {
  const silent = trial.stimuli.filter(({ token }) => !heard.has(token)).map(({ label }) => label);
  const found = silent.length ? [`play ${list(silent)}`] : [];
  for (const { token, label } of trial.stimuli) {
    const without = unmarked(answer, token, rows);
    if (without.length === rows.length) found.push(`mark ${label}`);
    else if (without.length) found.push(`mark ${label} in ${list(without.map(({ name }) => name))}`);
  }
  if (trial.preference && answer.preferred === null) found.push("say which one you prefer");
  return found;
}

/** The samples that have marks: whoever marked them has heard them. */
function heardBefore(answer) {
  return new Set(Object.keys(answer.marks));
}

/** Seconds that a page was in sight, a day at most. */
class Stopwatch {
  static #MOST = 86400;
  #before;
  #since = document.hidden ? null : performance.now();
  #turn = () => {
    this.#before = this.seconds;
    this.#since = document.hidden ? null : performance.now();
  };

  constructor(seconds) {
    this.#before = seconds;
    document.addEventListener("visibilitychange", this.#turn);
  }

  get seconds() {
    const now = this.#since === null ? 0 : (performance.now() - this.#since) / 1000;
    return Math.min(Math.round(10 * (this.#before + now)) / 10, Stopwatch.#MOST);
  }

  dispose() {
    document.removeEventListener("visibilitychange", this.#turn);
  }
}
