"use strict";

/** What each checkpoint, and the real recordings, got. */
function showResult(page, { systems, real, consistency }, rows) {
  const byScore = [...systems].sort((one, other) => (other.score ?? 0) - (one.score ?? 0));
  const items = byScore.map((system) => resultOf(system.name, system.score, system.rows ?? {}, rows, system.preferred));
  if (real) items.push(resultOf("Real recordings", real.score, real.rows ?? {}, rows));
  page.querySelector(".results").replaceChildren(...items);
  const line = page.querySelector(".consistency");
  line.hidden = !consistency;
  line.textContent = consistency?.sentence ?? "";
}

function resultOf(name, score, marks, rows, preferred) {
  const item = clone("result");
  item.querySelector("h2").textContent = name;
  item.querySelector(".score strong").textContent = score?.toFixed(1) ?? "–";
  const known = rows.filter(({ key }) => Number.isFinite(marks[key]));
  item.querySelector(".rows").append(...known.map((row) => rowOf(row.name, marks[row.key])));
  if (preferred !== undefined) {
    item.querySelector(".preferred").textContent = preferred === 1 ? "Preferred once" : `Preferred ${preferred} times`;
  }
  return item;
}

function rowOf(name, mark) {
  const row = document.createElement("div");
  const term = document.createElement("dt");
  const value = document.createElement("dd");
  term.textContent = name;
  value.textContent = mark.toFixed(1);
  value.style.setProperty("--share", `${25 * (mark - 1)}%`);
  row.append(term, value);
  return row;
}
