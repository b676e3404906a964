"use strict";

/**
 * The key that was pressed as a lower-case letter, a digit or the key's name.
 * On keyboards of other scripts, and where digits need Shift, it is what is printed there on a Latin one.
 */
function keyOf({ key, code }) {
  if (key === "?" || /^[a-z0-9]$/i.test(key) || [...key].length > 1) return key.toLowerCase();
  const found = /^(?:Key|Digit|Numpad)([A-Z0-9])$/.exec(code);
  return found ? found[1].toLowerCase() : key;
}

/**
 * A letter for each fault, out of its own name: never one that has another meaning.
 * Faults for which none is left have null.
 */
function faultLetters(faults, labels) {
  const taken = new Set(["n", "p", ...labels.map((label) => label.toLowerCase())]);
  return faults.map(({ key }) => {
    const letter = [...key].find((one) => /[a-z]/.test(one) && !taken.has(one)) ?? null;
    taken.add(letter);
    return letter;
  });
}

/** What was clicked last, as long as it has the focus. */
let clicked = null;
document.addEventListener("click", ({ target, detail }) => {
  // A press of a key is a click as well, of no detail.
  if (detail > 0) clicked = target;
});
document.addEventListener("focusout", () => {
  clicked = null;
});

/** Whether the focused element itself has a use for a key, as every page's elements do. */
function isNative(element, key) {
  if (element.matches("textarea")) return true;
  if (element.matches("input[type=range]")) return /^(arrow|page|home|end)/.test(key);
  // Whoever has clicked on something and then presses the space bar means the sound.
  const reached = element !== clicked;
  if (element.matches("button, a, summary")) return key === "enter" || (key === " " && reached);
  if (element.matches("input[type=checkbox]")) return key === " " && reached;
  if (element.matches("input[type=radio]")) {
    return /^arrow(left|right)$/.test(key) || (key === " " && reached && !element.checked);
  }
  return false;
}

/**
 * What a key means on the page of a trial, as a function to call; null where it means nothing.
 * `page` has `move(by)`, to another trial, and `showKeys()`.
 */
function actionOf(event, view, page) {
  const key = keyOf(event);
  if (key === "escape") return () => view.leave();
  if (isNative(event.target, key)) return null;
  if (key === "arrowup") return () => view.step(-1);
  if (key === "arrowdown") return () => view.step(1);
  // A key that is held down plays, marks and goes on once.
  if (event.repeat) return () => {};
  if (key === "?") return () => page.showKeys();
  if (key === "enter") return () => page.move(event.shiftKey ? -1 : 1);
  if (key === " ") return () => playByKey(event, view);
  if (key === "n") return () => view.writeNote();
  if (key === "p") return () => view.askPreference();
  if (/^[1-5]$/.test(key)) return () => view.mark(Number(key));
  if (key === "0" && view.asksPreference) return () => view.prefer(-1);
  const sample = view.labels.findIndex((label) => label.toLowerCase() === key);
  if (sample >= 0) return () => (view.asksPreference ? view.prefer(sample) : view.choose(sample));
  return view.hasFault(key) ? () => view.tick(key) : null;
}

function playByKey({ target, shiftKey }, view) {
  // Some browsers press a focused button when the space bar comes up again.
  if (target.matches("button, input")) view.leave();
  view.play({ fromStart: shiftKey });
}
