// The page's line to the server: the events after a cursor, each once and in order, whatever happens to the socket.
//
// The server sends pages of events and keeps at most two unacknowledged; this side acknowledges what it has shown. An
// event that was received is never lost to a reconnect, because it stays queued in the page; so the cursor of a
// reconnect is the highest number received.

const FIRST_PAUSE = 300; // ms
const LONGEST_PAUSE = 5000; // ms
const CROWDED_PAUSE = 30_000; // ms, after the server said that there are too many
const STEADY = 10_000; // ms after which a socket has shown that it is good, also if it brought nothing
const OPEN_WITHIN = 10_000; // ms
const SLEPT = 20_000; // ms without a tick: the computer slept, and the socket may be dead without knowing
const TICK = 1000; // ms
const NOT_VISIBLE = 4404;
const LOG_IN = 4401;
const TOO_MANY = 4429;

export class Connection {
  // onEvents(events) returns a promise that is kept when they are shown. onStatus({state, seconds}) with state
  // "connecting", "live", "waiting" (reconnects in `seconds`; `why` is empty or the server's words), "gone" or "login".
  // onRemoved(seq) tells that all events up to that number were removed after their retention.
  constructor(address, { onEvents, onRemoved, onSession, onStatus }) {
    this.address = address;
    this.onEvents = onEvents;
    this.onRemoved = onRemoved;
    this.onSession = onSession;
    this.onStatus = onStatus;
    this.cursor = 0;
    this.pause = FIRST_PAUSE;
    this.retryAt = 0;
    this.why = "";
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
    socket.onopen = () => {
      clearTimeout(tooLate);
      setTimeout(() => socket === this.socket && this.good(), STEADY);
    };
    socket.onmessage = (message) => this.receive(socket, JSON.parse(message.data));
    socket.onclose = (close) => {
      clearTimeout(tooLate);
      if (socket !== this.socket) return;
      if (close.code === NOT_VISIBLE) this.end("gone");
      else if (close.code === LOG_IN) this.end("login");
      else if (close.code === TOO_MANY) this.lose(socket, close.reason);
      else this.lose(socket);
    };
  }

  // The socket does what it is for: the next pause is short again. One that only opens, or says the same as the last
  // one, is no better than none, and the pauses grow on.
  good() {
    this.pause = FIRST_PAUSE;
  }

  receive(socket, frame) {
    if (socket !== this.socket) return;
    this.onStatus({ state: "live" });
    if (frame.type === "session") this.onSession(frame.session);
    else if (frame.type === "events") this.take(socket, frame);
  }

  async take(socket, { events, last_seq: last, removed }) {
    const fresh = [];
    if (removed > this.cursor) {
      this.cursor = removed;
      this.onRemoved(removed);
      this.good();
    }
    for (const event of events) {
      if (event.seq <= this.cursor) continue;
      if (event.seq !== this.cursor + 1) {
        console.warn(`event ${event.seq} came after ${this.cursor}`);
        break;
      }
      this.cursor = event.seq;
      fresh.push(event);
    }
    const hole = last > this.cursor;
    if (fresh.length) this.good();
    await this.onEvents(fresh);
    if (socket !== this.socket || socket.readyState !== WebSocket.OPEN) return;
    if (hole) this.lose(socket);
    else socket.send(JSON.stringify({ type: "ack", seq: last }));
  }

  // The socket is no use any more: try again after a pause that grows, with jitter so that pages don't come in step.
  lose(socket, why = "") {
    if (socket !== this.socket || this.ended) return;
    this.drop();
    this.why = why;
    const wait = (why ? CROWDED_PAUSE : this.pause) * (0.5 + Math.random() / 2);
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
    const seconds = Math.max(0, Math.ceil((this.retryAt - Date.now()) / 1000));
    this.onStatus({ state: "waiting", seconds, why: this.why });
  }
}
