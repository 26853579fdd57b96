"use strict";
/* Mixers: all lanes of an item start at one moment of one clock, and gains decide what is heard. */

let context = null;
const mixers = [];

class Lane {
  constructor(element) {
    this.element = element;
    this.role = element.dataset.role;
    this.stem = element.dataset.stem;
    this.muted = element.dataset.muted === "true";
    this.soloed = false;
    this.meter = element.querySelector(".meter");
    this.line = element.querySelector(".head-line");
    this.mute = element.querySelector(".mute");
    this.solo = element.querySelector(".solo");
    this.buffer = this.source = this.gain = this.analyser = null;
  }

  async decode() {
    const holder = document.getElementById(this.element.dataset.audio);
    const text = atob(holder.textContent);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    this.buffer = await context.decodeAudioData(bytes.buffer);
    this.gain = new GainNode(context, { gain: 0 });
    this.analyser = new AnalyserNode(context, { fftSize: 1024 });
    this.gain.connect(this.analyser).connect(context.destination);
    this.samples = new Float32Array(this.analyser.fftSize);
  }

  start(when, offset) {
    this.source = new AudioBufferSourceNode(context, { buffer: this.buffer });
    this.source.connect(this.gain);
    this.source.start(when, Math.min(offset, this.buffer.duration));
  }

  stop() {
    if (this.source) { this.source.stop(); this.source.disconnect(); this.source = null; }
  }

  level() { /* peak of what is heard now, 0 to 1 */
    if (!this.analyser || !this.source) return 0;
    this.analyser.getFloatTimeDomainData(this.samples);
    return this.samples.reduce((peak, value) => Math.max(peak, Math.abs(value)), 0);
  }
}

class Mixer {
  constructor(element) {
    this.element = element;
    this.lanes = [...element.querySelectorAll(".lane[data-audio]")].map((lane) => new Lane(lane));
    this.clock = element.querySelector(".clock");
    this.duration = Number(element.dataset.seconds);
    this.position = this.startedAt = 0;
    this.playing = false;
    this.loading = null;
    element.querySelector(".play").addEventListener("click", () => (this.playing ? this.pause() : this.play()));
    for (const button of element.querySelectorAll("[data-preset]"))
      button.addEventListener("click", () => this.preset(button.dataset.preset));
    for (const lane of this.lanes) {
      lane.mute.addEventListener("click", () => { lane.muted = !lane.muted; this.mix(); });
      lane.solo.addEventListener("click", () => { lane.soloed = !lane.soloed; this.mix(); });
      lane.element.addEventListener("click", (event) => {
        if (event.target.closest("button")) return;
        const box = lane.element.getBoundingClientRect();
        this.seek(((event.clientX - box.left) / box.width) * this.duration);
      });
    }
    this.mix();
    this.draw();
  }

  audible(lane) {
    return this.lanes.some((other) => other.soloed) ? lane.soloed : !lane.muted;
  }

  preset(name) { /* "mixture", "target" or "result": that, and nothing else */
    for (const lane of this.lanes) {
      lane.soloed = false;
      lane.muted = name === "mixture"
        ? lane !== this.lanes.find((other) => other.stem === "")
        : lane.role !== name || (lane.stem === "" && this.lanes.some((o) => o.role === name && o.stem !== ""));
    }
    this.mix();
  }

  mix() {
    for (const lane of this.lanes) {
      const heard = this.audible(lane);
      lane.element.dataset.audible = heard;
      lane.mute.setAttribute("aria-pressed", lane.muted);
      lane.solo.setAttribute("aria-pressed", lane.soloed);
      if (lane.gain) lane.gain.gain.setTargetAtTime(heard ? 1 : 0, context.currentTime, 0.008);
    }
    for (const button of this.element.querySelectorAll("[data-preset]"))
      button.setAttribute("aria-pressed", this.shows(button.dataset.preset));
  }

  shows(name) {
    const heard = this.lanes.filter((lane) => this.audible(lane));
    if (name === "mixture") return heard.length === 1 && heard[0] === this.lanes.find((lane) => lane.stem === "");
    const wanted = this.lanes.filter((lane) => lane.role === name && lane.stem !== "");
    return wanted.length > 0 && heard.length === wanted.length && wanted.every((lane) => heard.includes(lane));
  }

  load() {
    context ??= new AudioContext();
    this.loading ??= Promise.all(this.lanes.map((lane) => lane.decode())).then(() => this.mix());
    return this.loading;
  }

  async play() {
    for (const other of mixers) if (other !== this) other.pause();
    this.element.classList.add("loading");
    await this.load();
    await context.resume();
    this.element.classList.remove("loading");
    if (this.playing) return;
    if (this.position >= this.duration - 0.01) this.position = 0;
    const when = context.currentTime + 0.05;
    for (const lane of this.lanes) lane.start(when, this.position);
    this.startedAt = when - this.position;
    this.playing = true;
    this.element.classList.add("playing", "started");
    this.tick();
  }

  pause() {
    if (!this.playing) return;
    this.position = this.now();
    this.playing = false;
    for (const lane of this.lanes) lane.stop();
    this.element.classList.remove("playing");
    this.draw();
  }

  async seek(seconds) {
    const going = this.playing;
    this.pause();
    this.position = Math.min(Math.max(seconds, 0), this.duration);
    this.element.classList.add("started");
    this.draw();
    if (going) await this.play();
  }

  now() {
    return this.playing ? Math.min(Math.max(context.currentTime - this.startedAt, 0), this.duration) : this.position;
  }

  tick() {
    if (!this.playing) return;
    if (this.now() >= this.duration) { this.pause(); this.position = 0; }
    this.draw();
    if (this.playing) requestAnimationFrame(() => this.tick());
  }

  draw() {
    const now = this.now();
    this.clock.textContent = `${time(now)} / ${time(this.duration)}`;
    for (const lane of this.lanes) {
      lane.line.style.left = `${(100 * now) / this.duration}%`;
      const db = 20 * Math.log10(Math.max(lane.level(), 1e-6));
      lane.meter.style.transform = `scaleY(${Math.min(Math.max(1 + db / 48, 0), 1)})`;
    }
  }
}

function time(seconds) {
  return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
}

function sortBy(header) {
  const table = header.closest("table"), column = [...header.parentNode.children].indexOf(header);
  const up = header.getAttribute("aria-sort") !== "ascending";
  for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]);
  rows.sort(([a], [b]) => {
    if (a === "" || b === "") return (a === "") - (b === ""); /* cells without a value last, both ways */
    const order = header.classList.contains("text") ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
    return up ? order : -order;
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

for (const element of document.querySelectorAll(".mixer")) mixers.push(new Mixer(element));
for (const header of document.querySelectorAll("th")) {
  header.tabIndex = 0;
  header.addEventListener("click", () => sortBy(header));
  header.addEventListener("keydown", (event) => event.key === "Enter" && sortBy(header));
}
document.addEventListener("keydown", (event) => {
  if (event.code !== "Space" || event.target.closest("button, summary, a, th")) return;
  const current = mixers.find((mixer) => mixer.playing) ?? mixers.find((mixer) => mixer.element.classList.contains("started"));
  if (current) { event.preventDefault(); current.playing ? current.pause() : current.play(); }
});
window.msgldMixers = mixers;
