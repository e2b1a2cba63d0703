// The WebSocket to the server, and its messages. The header of a picture is described in protocol.py.

const HEADER = 46;
export const WORLD = 0, SIMULATOR = 1, NOBODY = 0xffffffff;

export function unpack(buffer) {
  const view = new DataView(buffer);
  if (view.getUint32(0) !== 0x57464d50 || view.getUint8(4) !== 1) throw new Error("a message of another version");
  const parent = view.getUint32(14, true);
  return {
    kind: view.getUint8(5), number: view.getUint16(6, true), count: view.getUint16(8, true),
    node: view.getUint32(10, true), parent: parent === NOBODY ? null : parent,
    step: view.getUint32(18, true), frame: view.getUint32(22, true), seq: view.getUint32(26, true),
    shownMs: view.getFloat32(30, true), madeMs: view.getFloat32(34, true),
    waitedMs: view.getFloat32(38, true), distance: view.getFloat32(42, true),
    blob: new Blob([new Uint8Array(buffer, HEADER)], { type: "image/png" }),
  };
}

export class Link {
  // on: {news name: handler, picture: handler, closed: handler}
  constructor(on) {
    this.on = on;
    this.token = new URLSearchParams(location.search).get("token") ?? "";
    this.session = "";
    const url = new URL("ws", location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    url.search = new URLSearchParams({ token: this.token });
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = (event) => this.received(event.data);
    this.socket.onclose = (event) => on.closed(event.reason || "the connection is closed; reload the page to begin anew");
  }

  received(data) {
    if (data instanceof ArrayBuffer) return this.on.picture(unpack(data));
    const news = JSON.parse(data);
    if (news.news === "welcome") this.session = news.session;
    this.on[news.news]?.(news);
  }

  send(what, keys = {}) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ do: what, ...keys }));
  }

  address(path, keys) {
    return `${path}?${new URLSearchParams({ ...keys, session: this.session, token: this.token })}`;
  }

  picture(node, number) {
    return this.address("picture", { node, number });
  }

  async upload(file) {
    const answer = await fetch(this.address("upload", { name: file.name }), { method: "POST", body: file });
    const said = await answer.json();
    if (!answer.ok) throw new Error(said.error);
    return said.id;
  }
}
