// What is held, by any means, as one value a channel: keys, gamepad, pad, mouse and sliders. Tells of every change.

const PAIRS = [ // [less, more] for one channel after the other
  ["ArrowLeft", "ArrowRight"], ["ArrowDown", "ArrowUp"], ["KeyQ", "KeyE"], ["KeyF", "KeyR"], ["KeyG", "KeyT"], ["KeyH", "KeyY"],
  ["KeyJ", "KeyU"], ["KeyK", "KeyI"], ["KeyL", "KeyO"], ["Digit1", "Digit2"], ["Digit3", "Digit4"], ["Digit5", "Digit6"],
  ["Digit7", "Digit8"], ["Digit9", "Digit0"],
];
const ALSO = { KeyA: "ArrowLeft", KeyD: "ArrowRight", KeyS: "ArrowDown", KeyW: "ArrowUp" };
const WAYS = { left: "ArrowLeft", right: "ArrowRight", down: "ArrowDown", up: "ArrowUp" };
const NAMES = { ArrowLeft: "\u2190", ArrowRight: "\u2192", ArrowDown: "\u2193", ArrowUp: "\u2191" };
const DEAD = 0.15; // of a gamepad's stick
const MOST_BUTTONS = 6; // values of a discrete channel that become buttons
const CREEP = 1 / 40; // of its range that a channel of places moves by while a key is held, every TICK
const TICK = 50;

const shown = (code) => NAMES[code] ?? code.replace(/^Key|^Digit/, "");
const rounded = (value) => Number(value.toPrecision(3));

export class Drive {
  constructor(channels, changed) {
    this.channels = channels.map((channel, i) => this.prepared(channel, i));
    this.changed = changed;
    this.down = new Set();
    this.drag = [0, 0];
    this.stick = [];
    this.last = "";
    setInterval(() => this.creep(), TICK);
  }

  prepared(channel, i) {
    const rest = Math.min(Math.max(0, channel.low), channel.high);
    // a channel that says where to be stays there; one that says how far to go springs back
    const stays = channel.discrete || channel.motion === "absolute" || channel.low >= 0 || channel.high <= 0;
    return { ...channel, rest, stays, value: rest, slid: null, pair: PAIRS[i % PAIRS.length].slice() };
  }

  build(parent) {
    parent.replaceChildren(...this.channels.filter((one) => !one.constant).map((channel) => this.row(channel)));
  }

  row(channel) {
    const row = document.createElement("div");
    row.className = "channel";
    const name = document.createElement("span");
    name.textContent = channel.name;
    channel.output = document.createElement("output");
    const range = document.createElement("div");
    range.className = "range";
    const limits = document.createElement("span");
    limits.textContent = `${rounded(channel.low)} to ${rounded(channel.high)} ${channel.unit}`;
    range.append(limits, this.keys(channel));
    row.append(name, this.control(channel), channel.output, range);
    return row;
  }

  control(channel) {
    const steps = channel.high - channel.low;
    if (channel.discrete && steps < MOST_BUTTONS) {
      const group = document.createElement("div");
      group.className = "choices";
      group.setAttribute("role", "group");
      group.setAttribute("aria-label", channel.name);
      channel.buttons = [];
      for (let value = channel.low; value <= channel.high; value++) {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = value;
        button.setAttribute("aria-label", `${channel.name} ${value}`);
        button.onclick = () => { channel.value = value; this.tell(); };
        channel.buttons.push([value, button]);
        group.append(button);
      }
      return group;
    }
    const slider = document.createElement("input");
    Object.assign(slider, { type: "range", min: channel.low, max: channel.high, step: channel.discrete ? 1 : steps / 100, value: channel.rest });
    slider.setAttribute("aria-label", `${channel.name}, ${channel.low} to ${channel.high} ${channel.unit}`);
    slider.oninput = () => { channel.slid = Number(slider.value); if (channel.stays) channel.value = channel.slid; this.tell(); };
    slider.onchange = () => { channel.slid = null; this.tell(); };
    channel.slider = slider;
    return slider;
  }

  keys(channel) {
    const select = document.createElement("select");
    select.setAttribute("aria-label", `Keys of ${channel.name}`);
    PAIRS.forEach((pair, i) => select.add(new Option(pair.map(shown).join(" "), i, false, pair[0] === channel.pair[0])));
    select.onchange = () => { channel.pair = PAIRS[Number(select.value)].slice(); };
    return select;
  }

  listen(canvas, pad) {
    addEventListener("keydown", (event) => this.key(event, true));
    addEventListener("keyup", (event) => this.key(event, false));
    addEventListener("blur", () => { this.down.clear(); this.tell(); });
    for (const button of pad.querySelectorAll("button")) {
      const code = WAYS[button.dataset.way];
      const hold = (on) => (event) => { event.preventDefault(); this.press(code, on); };
      button.onpointerdown = hold(true);
      button.onpointerup = button.onpointerleave = button.onpointercancel = hold(false);
      button.onkeydown = (event) => { if (event.code === "Enter") this.press(code, true); };
      button.onkeyup = (event) => { if (event.code === "Enter") this.press(code, false); };
    }
    let from = null;
    canvas.onpointerdown = (event) => { from = [event.clientX, event.clientY]; canvas.setPointerCapture(event.pointerId); };
    canvas.onpointermove = (event) => {
      if (!from) return;
      const side = canvas.clientWidth / 4;
      this.drag = [(event.clientX - from[0]) / side, (from[1] - event.clientY) / side].map((part) => Math.min(1, Math.max(-1, part)));
      this.tell();
    };
    canvas.onpointerup = canvas.onpointercancel = () => { from = null; this.drag = [0, 0]; this.tell(); };
  }

  // Whether some channel is moved by this key.
  uses(code) {
    const meant = ALSO[code] ?? code;
    return this.channels.some((channel) => channel.pair.includes(meant) || channel.pair.includes(code));
  }

  key(event, on) {
    const typing = event.target.closest?.("input:not([type=range]):not([type=checkbox]), select, textarea");
    if (event.ctrlKey || event.metaKey || event.altKey || (typing && on)) return;
    if (event.target.matches?.("input[type=range]") && on) return; // arrows move the slider that has the focus
    if (!this.uses(event.code)) return;
    event.preventDefault();
    if (!event.repeat) this.press(event.code, on);
  }

  press(code, on) {
    const meant = this.channels.some((channel) => channel.pair.includes(code)) ? code : ALSO[code] ?? code;
    on ? this.down.add(meant) : this.down.delete(meant);
    for (const channel of this.channels) {
      if (!on || !channel.discrete || !channel.pair.includes(meant)) continue;
      const by = channel.pair[1] === meant ? 1 : -1;
      channel.value = Math.min(channel.high, Math.max(channel.low, channel.value + by));
    }
    this.tell();
  }

  creep() {
    let moved = false;
    for (const channel of this.channels) {
      const by = this.pushed(channel, this.channels.indexOf(channel));
      if (!channel.stays || channel.discrete || !by) continue;
      channel.value = Math.min(channel.high, Math.max(channel.low, channel.value + by * CREEP * (channel.high - channel.low)));
      moved = true;
    }
    if (moved) this.tell();
  }

  pushed(channel, i) {
    const keys = Number(this.down.has(channel.pair[1])) - Number(this.down.has(channel.pair[0]));
    return Math.min(1, Math.max(-1, keys + (this.drag[i] ?? 0) + (this.stick[i] ?? 0)));
  }

  // Called for every picture on the screen.
  poll() {
    const pad = navigator.getGamepads?.().find(Boolean);
    if (!pad && !this.stick.length) return;
    this.stick = pad ? [...pad.axes].map((value, i) => (Math.abs(value) < DEAD ? 0 : i % 2 ? -value : value)) : [];
    this.tell();
  }

  values() {
    return this.channels.map((channel, i) => {
      if (channel.constant) return channel.low;
      if (channel.stays) return channel.value;
      const by = this.pushed(channel, i);
      return by ? channel.rest + by * (by > 0 ? channel.high - channel.rest : channel.rest - channel.low) : channel.slid ?? channel.rest;
    });
  }

  tell() {
    const values = this.values();
    values.forEach((value, i) => this.show(this.channels[i], value));
    const now = JSON.stringify(values);
    if (now !== this.last) {
      this.last = now;
      this.changed(values);
    }
  }

  show(channel, value) {
    if (channel.output) channel.output.textContent = rounded(value);
    if (channel.slider && channel.slid === null) channel.slider.value = value;
    for (const [own, button] of channel.buttons ?? []) button.setAttribute("aria-pressed", String(own === value));
  }
}
