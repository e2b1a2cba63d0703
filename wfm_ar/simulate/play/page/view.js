// Pictures on a canvas at their own pace, and numbers over the last of many.

const EARLY = 5; // milliseconds: the screen is drawn every 16 or so

export class Screen {
  // drawn: called with each picture when it is on the canvas.
  constructor(canvas, drawn = () => {}) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.drawn = drawn;
    this.waiting = [];
    this.nextAt = 0;
    this.decoding = Promise.resolve();
    this.epoch = 0;
  }

  size(width, height) {
    Object.assign(this.canvas, { width, height });
  }

  // Shows it when its time has come; pictures stay in order.
  add(picture) {
    const epoch = this.epoch;
    const bitmap = createImageBitmap(picture.blob);
    this.decoding = this.decoding.then(async () => {
      const image = await bitmap;
      if (epoch === this.epoch) this.waiting.push({ picture, image });
    }).catch(() => {});
  }

  // What is waiting is not shown any more: somebody went elsewhere.
  clear() {
    this.epoch += 1;
    this.waiting = [];
    this.nextAt = 0;
  }

  draw(now) {
    // behind by more than a step: the oldest are passed over, not the newest held back
    while (this.waiting.length > 2 * this.waiting[0]?.picture.count + 2) this.waiting.shift();
    if (!this.waiting.length || now < this.nextAt - EARLY) return;
    const { picture, image } = this.waiting.shift();
    this.context.drawImage(image, 0, 0, this.canvas.width, this.canvas.height);
    this.nextAt = (now - this.nextAt < picture.shownMs ? this.nextAt : now) + picture.shownMs;
    this.drawn(picture, now);
  }
}

export class Recent {
  constructor(most = 200) {
    this.most = most;
    this.values = [];
  }

  add(value) {
    this.values.push(value);
    if (this.values.length > this.most) this.values.shift();
  }

  at(part) {
    if (!this.values.length) return null;
    const sorted = [...this.values].sort((a, b) => a - b);
    return sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))];
  }
}

// Pictures drawn a second, over the last two seconds.
export class Pace {
  constructor() { this.times = []; }
  add(now) { this.times.push(now); while (this.times[0] < now - 2000) this.times.shift(); }
  get(now) { return this.times.filter((time) => time > now - 2000).length / 2; }
}

export function plot(line, values, width = 300, height = 60) {
  const top = Math.max(1, ...values);
  line.setAttribute("points", values.map((value, i) => `${(i / Math.max(1, values.length - 1)) * width},${height - 2 - (value / top) * (height - 4)}`).join(" "));
}
