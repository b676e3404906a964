"use strict";

/** A copy of what a `<template>` of the page holds: its one element. */
function clone(id) {
  return document.getElementById(id).content.firstElementChild.cloneNode(true);
}

/** A radio button or a checkbox with its face. */
function choice(type, name, value, face, checked) {
  const label = clone("choice");
  Object.assign(label.querySelector("input"), { type, name, value, checked });
  label.querySelector(".face").textContent = face;
  return label;
}

function unseen(text) {
  const span = document.createElement("span");
  span.className = "unseen";
  span.textContent = text;
  return span;
}

/** One sample of a trial: player, rows, faults and note. `changed()` is called after each change of the answer. */
class SampleView {
  #answer;
  #token;
  #changed;
  #tags;

  constructor({ token, label }, { source, answer, rows, faults, changed }) {
    this.#answer = answer;
    this.#token = token;
    this.#changed = changed;
    this.label = label;
    this.token = token;
    this.root = clone("stimulus");
    this.root.setAttribute("aria-label", `Sample ${label}`);
    this.root.querySelector(".label").textContent = label;
    this.player = new Player(this.root.querySelector(".player"), label, source);
    this.rows = rows.map((row) => this.#row(row));
    this.root.querySelector(".player").after(...this.rows);
    this.#tags = faults.map((fault) => this.#tag(fault));
    this.root.querySelector(".tags").append(...this.#tags.map(({ tag }) => tag));
    this.note = this.#note();
    this.#showMarked();
  }

  mark(row, value) {
    this.rows[row].querySelector(`input[value="${value}"]`).click();
  }

  /** Tick or untick the fault of a letter; returns what was done, in words. */
  tick(letter) {
    const { name, box } = this.#tagOf(letter);
    box.click();
    return `${name} ${box.checked ? "ticked" : "not ticked"}`;
  }

  hasFault(letter) {
    return this.#tagOf(letter) !== undefined;
  }

  #row({ key, name, question, low, high }) {
    const row = clone("row");
    row.querySelector(".name").textContent = name;
    row.querySelector(".question").textContent = question;
    row.querySelector(".low").textContent = low;
    row.querySelector(".high").textContent = high;
    const ends = { 1: low, 5: high };
    for (let value = 1; value <= 5; value += 1) {
      const marked = this.#answer.marks[this.#token]?.[key] === value;
      const mark = choice("radio", `mark-${this.#token}-${key}`, value, value, marked);
      if (ends[value]) mark.append(unseen(`: ${ends[value]}`));
      row.querySelector(".marks").append(mark);
    }
    row.addEventListener("change", ({ target }) => {
      this.#own("marks")[key] = Number(target.value);
      this.#showMarked();
      this.#changed();
    });
    return row;
  }

  #tag({ key: kind, name, letter }) {
    const tag = choice("checkbox", `fault-${this.#token}-${kind}`, kind, name, this.#faults.includes(kind));
    tag.classList.add("tag");
    if (letter) {
      const shown = document.createElement("kbd");
      shown.textContent = letter.toUpperCase();
      shown.setAttribute("aria-hidden", "true");
      tag.querySelector(".face").prepend(shown, " ");
      tag.querySelector("input").setAttribute("aria-keyshortcuts", letter.toUpperCase());
    }
    tag.addEventListener("change", ({ target }) => {
      const others = this.#faults.filter((one) => one !== kind);
      this.#put("faults", target.checked ? [...others, kind] : others);
      this.#changed();
    });
    return { letter, name, tag, box: tag.querySelector("input") };
  }

  #note() {
    const note = this.root.querySelector("textarea");
    note.value = this.#answer.notes[this.#token] ?? "";
    note.addEventListener("input", () => {
      this.#put("notes", note.value);
      this.#changed();
    });
    return note;
  }

  #tagOf(letter) {
    return this.#tags.find((tag) => tag.letter === letter);
  }

  get #faults() {
    return this.#answer.faults[this.#token] ?? [];
  }

  #own(part) {
    return (this.#answer[part][this.#token] ??= {});
  }

  /** Set what the answer has of this sample; what is empty is left out. */
  #put(part, value) {
    if (value.length) this.#answer[part][this.#token] = value;
    else delete this.#answer[part][this.#token];
  }

  #showMarked() {
    const marks = this.#answer.marks[this.#token] ?? {};
    this.root.classList.toggle("marked", Object.keys(marks).length === this.rows.length);
  }
}
