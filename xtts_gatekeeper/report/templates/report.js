"use strict";
// What the page does by itself: draws the diagrams in the colours of its style sheet, zooms them, and while a run goes
// on looks for a newer page. Everything is in the page; nothing is fetched but the page itself.

(() => {
  const root = document.documentElement;
  const kept = (() => {
    const key = "report:" + location.pathname;
    try {
      return { key, state: JSON.parse(sessionStorage.getItem(key)) || {} };
    } catch {
      return { key, state: {} }; // a browser that stores nothing for files
    }
  })();
  const every = (selector) => [...document.querySelectorAll(selector)];

  // Diagrams

  /** Plot models by the key of their panel, and the range of steps that they share. */
  const plots = new Map();
  let steps = null;
  let views = [];
  let whole = [0, 1];

  const ink = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

  /** The colour of what is called so, or "" for what stays unseen. */
  function colour(name) {
    if (name.startsWith("verdict-")) return ink(name.slice(8)) || ink("undecided");
    return ink(`c-${name}`);
  }

  function paint() {
    const [soft, surface] = [ink("soft"), ink("surface")];
    for (const plot of plots.values()) {
      for (const part of [...plot.left, ...plot.below, ...plot.center]) {
        if ("major_label_text_color" in part) part.major_label_text_color = soft;
        if (part.name === "grid") part.grid_line_color = colour("grid");
        else if (part.name === "phase") part.fill_color = colour("phase");
        else if (part.name && "line_color" in part) part.line_color = colour(part.name);
      }
      for (const { glyph, name } of plot.renderers) {
        const shade = name === "readout" ? "" : colour(name);
        if (!shade) continue;
        glyph.line_color = shade;
        if ("fill_color" in glyph) glyph.fill_color = name === "pruned" ? surface : shade;
      }
      for (const tool of plot.toolbar.tools) if (tool.overlay?.name === "rule") tool.overlay.line_color = colour("rule");
    }
  }

  /** Numbers below a diagram that is as wide as a phone would run into each other. */
  function spare() {
    const few = document.querySelector(".canvas").clientWidth < 480;
    for (const plot of plots.values()) plot.below[0].ticker.desired_num_ticks = few ? 3 : 7;
  }

  function logarithmic(key, on) {
    const plot = plots.get(key);
    const [scale, ticker] = plot.tags.slice(on ? 2 : 0);
    plot.y_scale = scale;
    plot.left[0].ticker = ticker;
    const button = document.querySelector(`[data-plot="${key}"]`);
    button.setAttribute("aria-pressed", String(on));
  }

  const zoomed = () => steps !== null && (steps.start > whole[0] || steps.end < whole[1]);

  function show(start, end) {
    const [first, last] = whole;
    const span = Math.min(Math.max(end - start, steps.min_interval), last - first);
    const from = Math.min(Math.max(start, first), last - span);
    steps.setv({ start: from, end: from + span });
    const [low, high] = [from, from + span].map((step) => Math.round(step).toLocaleString("en"));
    const said = zoomed() ? `Steps ${low} to ${high}` : "The whole run";
    document.getElementById("zoom-state").textContent = said;
  }

  function zoom(how) {
    const { start, end } = steps;
    const span = end - start;
    if (how === "in") show(start + span / 4, end - span / 4);
    if (how === "out") show(start - span / 2, end + span / 2);
    if (how === "left") show(start - span / 2, end - span / 2);
    if (how === "right") show(start + span / 2, end + span / 2);
    if (how === "all") show(...whole);
  }

  async function draw() {
    const place = document.getElementById("drawing");
    if (!place) return; // nothing was measured
    const { docs, items } = JSON.parse(place.textContent);
    const [item] = items;
    Bokeh.logger.set_level("error"); // quietly; set_log_level() says so
    const [manager] = await Bokeh.embed.embed_items(docs, items);
    views = manager.roots.filter((view) => view.model.id in item.roots); // Bokeh adds one of its own
    for (const view of views) plots.set(item.roots[view.model.id].slice("plot-".length), view.model);
    steps = [...plots.values()][0].x_range;
    whole = [steps.start, steps.end];
    paint();
    spare();
    addEventListener("resize", spare);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
    for (const [key, on] of Object.entries(kept.state.scales ?? {})) if (plots.get(key)?.tags.length) logarithmic(key, on);
    if (kept.state.steps) show(...kept.state.steps);
    // A finger scrolls the page; it zooms with the buttons.
    if (matchMedia("(pointer: coarse)").matches) for (const plot of plots.values()) plot.toolbar.active_drag = null;
    for (const button of every("[data-zoom]")) button.addEventListener("click", () => zoom(button.dataset.zoom));
    for (const button of every("[data-plot]"))
      button.addEventListener("click", () => logarithmic(button.dataset.plot, button.getAttribute("aria-pressed") !== "true"));
    for (const canvas of every(".canvas")) canvas.addEventListener("dblclick", () => zoom("all"));
  }

  // No script runs while paper is printed: each diagram leaves a picture of itself, which the style sheet turns light.
  // What is folded is opened, but for the tables of the diagrams, which would fill thirty sheets.

  const opened = [];

  function beforePrint() {
    root.dataset.print = "";
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    for (const view of views) {
      const { canvas } = view.export("png");
      canvas.className = dark ? "printed dark" : "printed";
      canvas.removeAttribute("style");
      view.el.parentElement.append(canvas);
    }
    for (const part of every("details:not([open])")) {
      if (part.parentElement.matches(".plot")) continue;
      part.open = true;
      opened.push(part);
    }
  }

  function afterPrint() {
    delete root.dataset.print;
    for (const part of opened.splice(0)) part.open = false;
    for (const picture of every(".printed")) picture.remove();
  }

  // Only one sample is heard at a time

  document.addEventListener(
    "play",
    (event) => {
      for (const other of every("audio")) if (other !== event.target) other.pause();
    },
    true,
  );

  // A running run: the file is written anew, and the page reads it again where the reader left it

  function keep() {
    const folds = Object.fromEntries(every("details[data-keep]").map((part) => [part.dataset.keep, part.open]));
    const scales = Object.fromEntries(every("[data-plot]").map((one) => [one.dataset.plot, one.getAttribute("aria-pressed") === "true"]));
    const pause = document.getElementById("live-pause")?.getAttribute("aria-pressed") === "true";
    const state = { folds, scales, top: scrollY, steps: zoomed() ? [steps.start, steps.end] : null, pause };
    try {
      sessionStorage.setItem(kept.key, JSON.stringify(state));
    } catch {
      // Then a newer page begins at its top.
    }
  }

  function follow() {
    const seconds = Number(document.body.dataset.live);
    const button = document.getElementById("live-pause");
    if (!seconds || !button) return;
    const paused = () => button.getAttribute("aria-pressed") === "true";
    button.setAttribute("aria-pressed", String(kept.state.pause === true));
    button.addEventListener("click", () => button.setAttribute("aria-pressed", String(!paused())));
    setInterval(() => {
      const busy = every("audio").some((audio) => !audio.paused) || document.hidden || "print" in root.dataset;
      if (busy || paused()) return;
      keep();
      location.reload();
    }, 1000 * seconds);
  }

  function restore() {
    for (const part of every("details[data-keep]")) if (kept.state.folds?.[part.dataset.keep]) part.open = true;
    if (kept.state.top) scrollTo({ top: kept.state.top, behavior: "instant" });
  }

  addEventListener("beforeprint", beforePrint);
  addEventListener("afterprint", afterPrint);
  const live = "live" in document.body.dataset;
  if (live) restore();
  else kept.state = {};
  draw().then(() => {
    if (live) restore();
    root.dataset.drawn = String(plots.size);
  });
  follow();
})();
