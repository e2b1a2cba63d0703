// The page of `wfm play`: its controls on one side, the session of the server on the other.

import { Drive } from "./drive.js";
import { Link, SIMULATOR } from "./net.js";
import { Tree } from "./tree.js";
import { Pace, Recent, Screen, plot } from "./view.js";

const $ = (id) => document.getElementById(id);
const BACK = 8; // steps of one press of Backspace
const FUTURE_STEPS = { 1: 16 }; // by frames a step; else 6
const KINDS = { sample: "a sample of the world", episode: "an episode of the data", simulator: "the simulator", text: "nothing, or text alone", upload: "a picture or clip" };

let world = null, drive = null, playing = false, seq = 0, acts = [], futures = new Map(), compare = null, distances = [], simulates = false, over = "";
const latency = new Recent(), pace = new Pace();
const screen = new Screen($("screen"), shown), other = new Screen($("other"));
const link = new Link({
  welcome, started, went, play: ({ on }) => pressed("play", (playing = on), on ? "Pause" : "Play"), auto, speed: ({ times }) => showSpeed(times),
  settings: showSettings, stats, recording: ({ on }) => pressed("record", on, on ? "Stop recording" : "Record"),
  recorded: ({ path, episodes }) => made(`${episodes} episode${episodes === 1 ? "" : "s"} in ${path}`), clip: clipMade,
  future: ({ node, parent, step }) => { tree.add({ node, parent, step, count: world.rate }); futures.set(node, parent); }, futures: sheet,
  beside: ({ on, why }) => { simulates = on; pressed("beside", on); if (why) say(`simulator: ${why}`); layout(); },
  note: ({ text }) => say(text), error: ({ text }) => say(text, true), ended: ({ text }) => say((over = text), true), picture, closed: (why) => say(over || why, true),
});
const tree = new Tree(link, (node) => link.send("go", { node }));

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", wrong);
}

function pressed(id, on, text) {
  $(id).setAttribute("aria-pressed", String(on));
  if (text) $(id).textContent = text;
}

// -- what the server tells --

function welcome(news) {
  world = news.world;
  document.title = `wfm play: ${world.name}`;
  $("world-name").textContent = world.name;
  $("world-about").textContent = `${world.width}x${world.height} pixels, ${world.fps} frames/s, ${world.rate} a step`;
  for (const view of [screen, other]) view.size(world.width, world.height);
  const sources = { ...news.sources, upload: [{}], text: [{}] };
  for (const [kind, name] of Object.entries(KINDS)) if (sources[kind]?.length) $("source").add(new Option(name, kind));
  $("source").onchange = () => choose(sources);
  $("which").onchange = () => { $("text").value = sources[$("source").value].find((one) => one.id === $("which").value)?.text ?? ""; };
  choose(sources);
  $("words").replaceChildren(...news.words.map((word) => new Option(word)));
  $("text-row").hidden = $("text-guidance-row").hidden = !news.can.text;
  $("refine-row").hidden = !news.can.refine;
  $("auto").hidden = !news.can.imagine;
  $("drive").hidden = $("action-guidance-row").hidden = !world.channels.length;
  drive = new Drive(world.channels, (values) => {
    seq += 1;
    acts.push({ seq, at: performance.now() });
    link.send("act", { seq, values });
  });
  drive.build($("channels"));
  drive.listen($("screen"), $("pad"));
  $("pad").hidden = world.channels.length < 2;
  drive.last = JSON.stringify(drive.values()); // what rests needs no telling
  showSpeed(news.speed);
  say("choose what to begin from");
  begin();
}

function choose(sources) {
  const kind = $("source").value, listed = sources[kind] ?? [];
  $("which").replaceChildren(...listed.filter((one) => one.id !== undefined).map((one) => new Option(one.text ? `${one.id}: ${one.text}` : one.id, one.id)));
  $("which-row").hidden = kind === "upload" || kind === "text" || kind === "simulator";
  $("file-row").hidden = kind !== "upload";
  $("text").value = listed[0]?.text ?? "";
}

function started(news) {
  tree.clear();
  $("strip").replaceChildren(); // nodes are numbered anew
  futures.clear();
  distances = [];
  simulates = news.beside;
  compare = null;
  acts = [];
  screen.clear();
  other.clear();
  pressed("play", (playing = false), "Play");
  pressed("auto", false);
  $("beside").hidden = !news.beside;
  pressed("beside", news.beside);
  $("sheet").hidden = true;
  showSettings(news);
  tree.here = news.node;
  layout();
  say(news.told || "begun: drive with the arrow keys, or press Play");
}

function went(news) {
  tree.here = news.node;
  screen.clear();
  other.clear();
  acts = [];
  showSettings(news);
  say(`back at step ${news.step}`);
  timeline();
}

function picture(one) {
  if (one.kind === SIMULATOR) {
    other.add(one);
    distances = [...distances, one.distance].slice(-200);
    return;
  }
  tree.add(one);
  screen.add(one);
}

function shown(one, now) {
  pace.add(now);
  tree.here = one.node;
  const met = acts.filter((act) => act.seq <= one.seq); // by this frame or by one before it that was lost on the way
  if (met.length) latency.add(now - met[0].at);
  acts = acts.filter((act) => act.seq > one.seq);
  $("where").textContent = `step ${one.step}, frame ${one.frame}`;
  if (compare !== null) drawBeside(one);
}

async function drawBeside(one) {
  const there = tree.path(compare).find((node) => node.step === one.step);
  $("other-where").textContent = there ? `the other branch, step ${there.step}` : "the other branch has ended";
  if (!there) return;
  const image = await tree.picture(there, Math.min(one.number, there.count - 1)).catch(() => null);
  if (image) other.context.drawImage(image, 0, 0, other.canvas.width, other.canvas.height);
}

function auto({ on, why }) {
  pressed("auto", on);
  if (why) say(`you drive: ${why}`);
}

function stats(news) {
  $("made").textContent = news.made_ms.p50 === null ? "-" : `${Math.round(news.made_ms.p50)} ms`;
  $("lost").textContent = news.lost;
  $("memory").textContent = news.memory_mib === null ? "-" : `${Math.round(news.memory_mib)} MiB`;
}

function showSettings(news) {
  for (const key of ["temperature", "text_guidance", "action_guidance"]) {
    $(key).value = news[key];
    $(key).nextElementSibling.textContent = news[key];
  }
  if (document.activeElement !== $("text")) $("text").value = news.text ?? "";
  if (document.activeElement !== $("seed")) $("seed").value = news.seed;
}

function showSpeed(times) {
  $("speed").value = Math.log2(times);
  $("speed-out").textContent = `${Number(times.toFixed(2))}x`;
}

function made(text, href = null) {
  const item = document.createElement("li");
  const body = href ? Object.assign(document.createElement("a"), { href, download: "" }) : item;
  body.textContent = text;
  if (href) item.append(body);
  $("made-files").prepend(item);
  say(text);
}

function clipMade({ name }) {
  made(name, link.address("clip", { name }));
}

function sheet() {
  const parents = new Set(futures.values());
  const ends = [...futures.keys()].filter((node) => !parents.has(node));
  $("sheet").replaceChildren(...ends.map((end, i) => {
    const way = tree.path(end).filter((one) => futures.has(one.node));
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-label", `Go on in future ${i + 1}`);
    const places = [0.25, 0.5, 0.75, 1].map((part) => way[Math.max(0, Math.ceil(part * way.length) - 1)]);
    button.append(...places.map((one) => tree.image(one)));
    button.onclick = () => { $("sheet").hidden = true; link.send("go", { node: end }); };
    return button;
  }));
  futures.clear();
  $("sheet").hidden = false;
  $("sheet").firstElementChild?.focus();
  say("eight futures from here: choose one to go on in");
  timeline();
}

function layout() {
  $("second").hidden = !(simulates || compare !== null);
  $("distance").hidden = !simulates;
  if (simulates && compare === null) $("other-where").textContent = "the simulator, under the same keys";
}

// -- what the player does --

async function begin() {
  const source = $("source").value, keys = { source, seed: Math.max(0, Math.trunc(Number($("seed").value))), refine: $("refine").checked };
  const words = $("text").value;
  if (world && !$("text-row").hidden && (words || source !== "simulator")) keys.text = words; // the simulator has words of its own
  if (source === "upload") {
    const file = $("file").files[0];
    if (!file) return say("choose a picture or a clip first", true);
    try {
      say("uploading");
      keys.id = await link.upload(file);
    } catch (error) {
      return say(error.message, true);
    }
  } else if (source !== "text" && source !== "simulator") keys.id = $("which").value;
  link.send("start", keys);
}

function back() {
  const way = tree.path(tree.here);
  link.send("go", { node: way[Math.max(0, way.length - 1 - BACK)]?.node ?? 0 });
}

const toggled = (id) => $(id).getAttribute("aria-pressed") !== "true";
const actions = {
  play: () => link.send("play", { on: !playing }),
  step: () => link.send("step"),
  back,
  auto: () => link.send("auto", { on: toggled("auto") }),
  record: () => link.send("record", { on: toggled("record") }),
  futures: () => { futures.clear(); say("imagining eight futures"); link.send("futures", { count: 8, steps: FUTURE_STEPS[world.rate] ?? 6 }); },
  keep: () => link.send("keep", { node: tree.here }),
  mp4: () => link.send("clip", { node: tree.here, kind: "mp4" }),
  gif: () => link.send("clip", { node: tree.here, kind: "gif" }),
  beside: () => link.send("beside", { on: toggled("beside") }),
  say: () => link.send("set", { ...($("text-row").hidden ? {} : { text: $("text").value }), seed: Math.max(0, Math.trunc(Number($("seed").value))) }),
  theme,
  "hint-done": () => { $("hint").hidden = true; remember("hint", "seen"); },
};
for (const [id, act] of Object.entries(actions)) $(id).addEventListener("click", act);
const SHORT = { Space: "play", Period: "step", Backspace: "back", KeyZ: "auto", KeyX: "record", KeyC: "futures" };
addEventListener("keydown", (event) => {
  const busy = event.target.closest("input:not([type=range]), select, textarea") || (event.target.closest("button, circle, summary") && event.code === "Space");
  if (busy || event.ctrlKey || event.metaKey || event.altKey || event.repeat || !SHORT[event.code]) return;
  event.preventDefault();
  actions[SHORT[event.code]]();
});
$("start").addEventListener("submit", (event) => { event.preventDefault(); begin(); $("screen").focus(); });
$("speed").addEventListener("input", () => link.send("speed", { times: 2 ** Number($("speed").value) }));
$("scrub").addEventListener("change", () => { const one = tree.path(tree.here)[Number($("scrub").value)]; if (one) link.send("go", { node: one.node }); });
$("scrub").addEventListener("input", () => { $("scrub-out").textContent = $("scrub").value; });
for (const key of ["temperature", "text_guidance", "action_guidance"]) {
  $(key).addEventListener("change", () => link.send("set", { [key]: Number($(key).value) }));
  $(key).addEventListener("input", () => { $(key).nextElementSibling.textContent = $(key).value; });
}
addEventListener("pointerup", (event) => { if (event.target.matches?.("input[type=range]")) event.target.blur(); }); // arrows drive again
$("crisp").addEventListener("change", () => { for (const view of [screen, other]) view.canvas.classList.toggle("crisp", $("crisp").checked); });
$("compare").addEventListener("change", () => { compare = $("compare").value === "" ? null : Number($("compare").value); layout(); });

function remember(key, value) {
  try { localStorage.setItem(`wfm-play-${key}`, value); } catch { /* a private window keeps nothing */ }
}

function remembered(key) {
  try { return localStorage.getItem(`wfm-play-${key}`); } catch { return null; }
}

function theme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  remember("theme", document.documentElement.dataset.theme);
}

// -- what is drawn again and again --

function timeline() {
  const way = tree.path(tree.here);
  $("scrub").max = Math.max(0, way.length - 1);
  if (document.activeElement !== $("scrub") || playing) {
    $("scrub").value = way.length - 1;
    $("scrub-out").textContent = way.at(-1)?.step ?? 0;
  }
  tree.strip($("strip"));
  tree.draw($("tree"));
  const ends = tree.ends().filter((one) => one.node !== tree.here).slice(-24);
  const wanted = ["", ...ends.map((one) => String(one.node))];
  if (wanted.join() !== [...$("compare").options].map((option) => option.value).join()) {
    $("compare").replaceChildren(new Option("nothing", ""), ...ends.map((one) => new Option(`branch to step ${one.step}`, one.node, false, one.node === compare)));
    if (compare !== null && !wanted.includes(String(compare))) $("compare").value = "";
  }
}

function frame(now) {
  screen.draw(now);
  if (compare === null) other.draw(now);
  drive?.poll();
  requestAnimationFrame(frame);
}

setInterval(() => {
  timeline();
  const now = performance.now();
  $("fps").textContent = pace.get(now).toFixed(1);
  for (const [id, part] of [["p50", 0.5], ["p95", 0.95]]) {
    const value = latency.at(part);
    $(id).textContent = value === null ? "-" : `${Math.round(value)} ms`;
  }
  if (!simulates) return;
  plot($("plot").firstElementChild, distances);
  $("distance-now").textContent = distances.at(-1)?.toFixed(1) ?? "";
}, 400);

if (remembered("theme")) document.documentElement.dataset.theme = remembered("theme");
$("hint").hidden = remembered("hint") === "seen";
for (const view of [screen, other]) view.canvas.classList.add("crisp");
requestAnimationFrame(frame);
