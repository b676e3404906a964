"use strict";

/** One sample's sound with its controls; starting one stops the others. */
class Player {
  static #sounding = null;

  #root;
  #label;
  #audio;
  #bar;
  #time;
  #broken = false;

  /** Called whenever the sound has started. */
  onstart = () => {};

  /** Called when it turns out that there is no sound to play. */
  onbroken = () => {};

  constructor(root, label, source) {
    this.#root = root;
    this.#label = label;
    this.#audio = root.querySelector("audio");
    this.#bar = root.querySelector(".position");
    this.#time = root.querySelector(".time");
    this.#bar.setAttribute("aria-label", `Position in ${label}`);
    this.#name(".again", `Play ${label} from its beginning`);
    this.#listen();
    this.#audio.src = source;
    this.#show();
  }

  get sounds() {
    return !this.#audio.paused;
  }

  toggle() {
    if (this.sounds) this.#audio.pause();
    else this.#play();
  }

  restart() {
    this.#audio.currentTime = 0;
    this.#play();
  }

  stop() {
    this.#audio.pause();
  }

  /** End the sound and what is still being loaded of it. */
  dispose() {
    this.stop();
    this.#audio.removeAttribute("src");
    this.#audio.load();
  }

  async #play() {
    if (this.#broken) this.#audio.load();
    if (Player.#sounding !== this) Player.#sounding?.stop();
    Player.#sounding = this;
    try {
      await this.#audio.play();
    } catch {
      // It was stopped before it began, or cannot be played: the latter has an event of its own.
    }
  }

  #listen() {
    this.#root.querySelector(".play").addEventListener("click", () => this.toggle());
    this.#root.querySelector(".again").addEventListener("click", () => this.restart());
    this.#bar.addEventListener("input", () => {
      this.#audio.currentTime = Number(this.#bar.value);
      this.#show();
    });
    for (const event of ["loadedmetadata", "timeupdate", "play", "pause", "ended", "seeked"]) {
      this.#audio.addEventListener(event, () => this.#show());
    }
    this.#audio.addEventListener("playing", () => {
      this.#follow();
      this.onstart();
    });
    this.#audio.addEventListener("loadedmetadata", () => this.#setBroken(false));
    this.#audio.addEventListener("error", () => {
      if (this.#audio.hasAttribute("src")) this.#setBroken(true);
    });
  }

  #setBroken(broken) {
    this.#broken = broken;
    if (broken) this.onbroken();
    this.#root.querySelector(".broken").hidden = !broken;
    this.#show();
  }

  /** Move the bar with every frame while it sounds. */
  #follow() {
    if (!this.sounds) return;
    this.#show();
    requestAnimationFrame(() => this.#follow());
  }

  #show() {
    const whole = Number.isFinite(this.#audio.duration) ? this.#audio.duration : 0;
    const at = Math.min(this.#audio.currentTime, whole);
    this.#bar.max = whole || 1;
    this.#bar.value = at;
    this.#bar.disabled = !whole;
    this.#bar.style.setProperty("--played", whole ? `${(100 * at) / whole}%` : "0%");
    this.#bar.setAttribute("aria-valuetext", `${at.toFixed(1)} of ${whole.toFixed(1)} seconds`);
    this.#time.textContent = whole ? `${at.toFixed(1)} / ${whole.toFixed(1)} s` : "";
    this.#root.classList.toggle("sounds", this.sounds);
    this.#name(".play", `${this.sounds ? "Pause" : "Play"} ${this.#label}`);
  }

  #name(button, name) {
    this.#root.querySelector(button).setAttribute("aria-label", name);
  }
}
