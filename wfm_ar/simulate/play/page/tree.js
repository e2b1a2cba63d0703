// The steps that were seen: the way to here, its branches, and pictures of all of them.

const PICTURES = 3000; // kept in the page; the server has older ones
const THUMBS = 40; // on the strip
const LANE = 22, MARGIN = 12;
const SVG = "http://www.w3.org/2000/svg";

export class Tree {
  constructor(link, go) {
    this.link = link;
    this.go = go;
    this.clear();
  }

  clear() {
    for (const node of this.nodes?.values() ?? []) if (node.url) URL.revokeObjectURL(node.url);
    this.nodes = new Map();
    this.here = null;
    this.shownKey = "";
    this.stored = 0;
  }

  add({ node, parent, step, count = 1, number = 0, blob = null }) {
    let one = this.nodes.get(node);
    if (!one) {
      one = { node, parent, step, count, blobs: [], url: "", children: [] };
      this.nodes.set(node, one);
      this.nodes.get(parent)?.children.push(node);
    }
    if (blob && !one.blobs[number]) {
      one.blobs[number] = blob;
      one.count = count;
      this.stored += 1;
      this.drop();
    }
    return one;
  }

  drop() {
    for (const one of this.nodes.values()) {
      if (this.stored <= PICTURES) return;
      this.stored -= one.blobs.filter(Boolean).length;
      one.blobs = [];
      if (one.url) URL.revokeObjectURL(one.url);
      one.url = "";
    }
  }

  path(node) {
    const way = [];
    for (let one = this.nodes.get(node); one; one = this.nodes.get(one.parent)) way.push(one);
    return way.reverse();
  }

  ends() {
    return [...this.nodes.values()].filter((one) => !one.children.length);
  }

  thumb(one) {
    const blob = one.blobs.at(-1);
    if (!one.url && blob) one.url = URL.createObjectURL(blob);
    return one.url || this.link.picture(one.node, one.count - 1);
  }

  async picture(one, number) {
    const blob = one.blobs[number] ?? (await (await fetch(this.link.picture(one.node, number))).blob());
    return createImageBitmap(blob);
  }

  strip(parent) {
    const way = this.path(this.here), last = way.length - 1;
    const count = Math.min(THUMBS, way.length);
    const places = Array.from({ length: count }, (_, i) => Math.round((i * last) / Math.max(1, count - 1)));
    const shown = places.map((place) => way[place]);
    const key = shown.map((one) => one.node).join();
    if (key === this.shownKey) return;
    this.shownKey = key;
    const old = new Map([...parent.children].map((button) => [Number(button.dataset.node), button]));
    parent.replaceChildren(...shown.map((one) => old.get(one.node) ?? this.button(one)));
    for (const button of parent.children) button.setAttribute("aria-current", String(Number(button.dataset.node) === this.here));
    parent.scrollLeft = parent.scrollWidth;
  }

  button(one) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.node = one.node;
    button.setAttribute("aria-label", `Go back to step ${one.step}`);
    button.append(this.image(one));
    button.onclick = () => this.go(one.node);
    return button;
  }

  image(one) {
    const image = document.createElement("img");
    image.alt = "";
    image.loading = "lazy";
    image.src = this.thumb(one);
    return image;
  }

  draw(svg) {
    const ends = this.ends().slice(-24);
    svg.replaceChildren();
    if (ends.length < 2) {
      svg.style.height = "0";
      return;
    }
    const last = Math.max(...ends.map((one) => one.step), 1);
    const width = svg.clientWidth || 600, height = ends.length * LANE + 4;
    svg.style.height = `${height}px`;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const x = (step) => MARGIN + (step / last) * (width - 2 * MARGIN);
    const onWay = new Set(this.path(this.here).map((one) => one.node));
    const lane = new Map();
    ends.forEach((end, i) => {
      const y = i * LANE + LANE / 2 + 2;
      const way = this.path(end.node);
      const own = way.filter((one) => !lane.has(one.node));
      own.forEach((one) => lane.set(one.node, y));
      const before = this.nodes.get(own[0]?.parent);
      const from = before ? [x(before.step), lane.get(before.node)] : [x(own[0].step), y];
      const draw = (to, name) => {
        const line = document.createElementNS(SVG, "path");
        line.setAttribute("d", `M${from} C${from[0] + 8},${from[1]} ${from[0]},${y} ${from[0] + 8},${y} L${x(to)},${y}`);
        line.setAttribute("class", name);
        svg.append(line);
      };
      draw(end.step, "");
      const walked = own.filter((one) => onWay.has(one.node)).at(-1);
      if (walked) draw(walked.step, "here");
    });
    ends.forEach((end) => svg.append(this.dot(end, x(end.step), lane.get(end.node))));
  }

  dot(end, x, y) {
    const dot = document.createElementNS(SVG, "circle");
    for (const [key, value] of Object.entries({ cx: x, cy: y, r: 6, tabindex: 0, role: "button" })) dot.setAttribute(key, value);
    dot.setAttribute("aria-label", `Branch that ends at step ${end.step}`);
    if (end.node === this.here) dot.classList.add("here");
    dot.onclick = () => this.go(end.node);
    dot.onkeydown = (event) => { if (event.key === "Enter") this.go(end.node); };
    return dot;
  }
}
