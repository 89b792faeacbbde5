// The page's line to the server: the events after a cursor, each once and in order, whatever happens to the socket.
//
// The server sends pages of events and keeps at most two unacknowledged; this side acknowledges what it has shown. An
// event that was received is never lost to a reconnect, because it stays queued in the page; so the cursor of a
// reconnect is the highest number received.

const FIRST_PAUSE = 300; // ms
const LONGEST_PAUSE = 5000; // ms
const OPEN_WITHIN = 10_000; // ms
const SLEPT = 20_000; // ms without a tick: the computer slept, and the socket may be dead without knowing
const TICK = 1000; // ms
const NOT_VISIBLE = 4404;
const LOG_IN = 4401;

export class Connection {
  // onEvents(events) returns a promise that is kept when they are shown. onStatus({state, seconds}) with state
  // "connecting", "live", "waiting" (reconnects in `seconds`), "gone" or "login".
  constructor(address, { onEvents, onSession, onStatus }) {
    this.address = address;
    this.onEvents = onEvents;
    this.onSession = onSession;
    this.onStatus = onStatus;
    this.cursor = 0;
    this.pause = FIRST_PAUSE;
    this.retryAt = 0;
    this.socket = null;
    this.ended = false;
  }

  start() {
    this.connect();
    this.lastTick = Date.now();
    setInterval(() => this.tick(), TICK);
    addEventListener("online", () => this.renew());
    addEventListener("pageshow", (event) => event.persisted && this.renew());
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState !== "visible") return;
      if (this.socket === null) this.connect();
      this.tick();
    });
  }

  connect() {
    if (this.ended) return;
    clearTimeout(this.timer);
    this.retryAt = 0;
    this.onStatus({ state: "connecting" });
    const url = new URL(this.address, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    url.searchParams.set("after", this.cursor);
    const socket = new WebSocket(url);
    this.socket = socket;
    const tooLate = setTimeout(() => this.lose(socket), OPEN_WITHIN);
    socket.onopen = () => clearTimeout(tooLate);
    socket.onmessage = (message) => this.receive(socket, JSON.parse(message.data));
    socket.onclose = (close) => {
      clearTimeout(tooLate);
      if (socket !== this.socket) return;
      if (close.code === NOT_VISIBLE) this.end("gone");
      else if (close.code === LOG_IN) this.end("login");
      else this.lose(socket);
    };
  }

  receive(socket, frame) {
    if (socket !== this.socket) return;
    this.pause = FIRST_PAUSE;
    this.onStatus({ state: "live" });
    if (frame.type === "session") this.onSession(frame.session);
    else if (frame.type === "events") this.take(socket, frame.events);
  }

  async take(socket, events) {
    const fresh = [];
    for (const event of events) {
      if (event.seq <= this.cursor) continue;
      if (event.seq !== this.cursor + 1) {
        console.warn(`event ${event.seq} came after ${this.cursor}`);
        break;
      }
      this.cursor = event.seq;
      fresh.push(event);
    }
    const last = events.at(-1)?.seq ?? 0;
    const hole = last > this.cursor;
    await this.onEvents(fresh);
    if (socket !== this.socket || socket.readyState !== WebSocket.OPEN) return;
    if (hole) this.lose(socket);
    else socket.send(JSON.stringify({ type: "ack", seq: last }));
  }

  // The socket is no use any more: try again after a pause that grows, with jitter so that pages don't come in step.
  lose(socket) {
    if (socket !== this.socket || this.ended) return;
    this.drop();
    const wait = this.pause * (0.5 + Math.random() / 2);
    this.pause = Math.min(this.pause * 2, LONGEST_PAUSE);
    this.retryAt = Date.now() + wait;
    this.timer = setTimeout(() => this.connect(), wait);
    this.tellWait();
  }

  // Start over at once: what this socket knows of the network may be out of date.
  renew() {
    this.drop();
    this.connect();
  }

  drop() {
    const socket = this.socket;
    this.socket = null;
    if (socket === null) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  end(state) {
    this.ended = true;
    clearTimeout(this.timer);
    this.drop();
    this.onStatus({ state });
  }

  tick() {
    const slept = Date.now() - this.lastTick > SLEPT && document.visibilityState === "visible";
    this.lastTick = Date.now();
    if (this.ended) return;
    if (slept) this.renew();
    else if (this.retryAt) this.tellWait();
  }

  tellWait() {
    this.onStatus({ state: "waiting", seconds: Math.max(0, Math.ceil((this.retryAt - Date.now()) / 1000)) });
  }
}
