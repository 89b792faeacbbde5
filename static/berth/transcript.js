// The transcript: events become blocks, a frame's worth at a time.
//
// What agents say is put in as text; the only HTML is `event.html`, which the server made safe (sessions/stream/markdown.py).

import { Ansi } from "./ansi.js";
import { Terminal } from "./terminal.js";
import { brief, make, time, visible, written } from "./words.js";

const FRAME_BUDGET = 12; // ms of work before the browser may paint
const MARKS = new Set(["delivered", "turn", "usage", "session", "exit"]);
const LABELS = {
  text: "Agent", result: "Answer", tool: "Tool", error: "Error", gap: "Output is missing", task: "Scheduling request",
  output: "Output",
};

export class Transcript {
  // onShown(count) is called after each frame with the number of blocks or pieces of output that it added, onCancel(number)
  // when a person takes a message back or discards it.
  constructor(root, { onShown, onCancel, me }) {
    this.onCancel = onCancel;
    this.root = root;
    this.onShown = onShown;
    this.me = me;
    this.queue = [];
    this.scheduled = false;
    this.output = null; // the stretch of raw output that goes on
    this.parsers = { run: null }; // of the run's streams
    this.writing = null; // the answer that is being written
    this.answer = ""; // parts of a result so far
    this.drafts = []; // what was written since the last result
    this.tools = new Map(); // blocks of tool calls without their result, by id
    this.messages = new Map(); // where bubbles tell how far their message came, by number
    this.told = { states: {}, mayCancel: false }; // what the server last said of messages
    document.addEventListener("visibilitychange", () => this.queue.length && this.show());
  }

  // Queue events; the promise is kept when they stand on the page.
  add(events) {
    if (events.length === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.queue.push({ events, at: 0, resolve });
      this.schedule();
    });
  }

  // The events up to `seq` are not there any more: said once, at their place.
  removed(seq) {
    this.root.querySelector(":scope > .removed")?.remove();
    const words = `Events 1 to ${seq} were removed after their retention.`;
    this.root.append(make("p", "removed", words));
  }

  schedule() {
    if (this.scheduled) return;
    this.scheduled = true;
    const show = () => {
      this.scheduled = false;
      this.show();
    };
    // A page in the background gets no animation frames, and shall not fall behind all the same.
    if (document.hidden) setTimeout(show, 50);
    else requestAnimationFrame(show);
  }

  show() {
    const until = performance.now() + FRAME_BUDGET;
    let count = 0;
    while (this.queue.length && performance.now() < until) {
      const page = this.queue[0];
      const event = page.events[page.at++];
      try {
        if (this.put(event)) count += 1;
      } catch (error) {
        console.error(error);
        this.block(event, "error", make("pre", "plain", `This page could not show event ${event.seq}: ${error}`));
      }
      if (page.at === page.events.length) {
        this.queue.shift();
        page.resolve();
      }
    }
    this.onShown(count);
    if (this.queue.length) this.schedule();
  }

  // Show one event; true if it is something to read.
  put(event) {
    const { kind } = event;
    if (MARKS.has(kind)) return this.mark(event);
    if (kind === "stdout" || kind === "stderr") return this.raw(event);
    this.output = null;
    if (kind !== "text") this.writing = null;
    const show = { message: this.message, state: this.state, text: this.text, result: this.result, tool: this.tool };
    (show[kind] ?? this.loud).call(this, event);
    return true;
  }

  // A block with its label, run and time. `kind` decides its colour.
  block(event, kind, ...body) {
    const label = make("span", "label", LABELS[kind] ?? kind);
    const meta = make("header", "meta", label);
    if (event.run) meta.append(make("span", "run", `run ${event.run}`));
    meta.append(time(event.at));
    const element = make("article", `entry ${kind}`, meta, ...body);
    element.dataset.kind = event.kind;
    element.dataset.seq = event.seq;
    this.root.append(element);
    return element;
  }

  message(event) {
    const { number, sender } = event.data;
    const name = visible(String(sender || "unknown"));
    const bubble = this.prose(event);
    const element = this.block(event, "message", bubble);
    element.classList.toggle("mine", sender === this.me);
    element.querySelector(".label").textContent = name;
    const place = make("span", "delivery", "sent");
    place.title = `Message ${number}`;
    element.querySelector(".meta").append(place);
    this.messages.set(number, place);
    this.tellMessage(number);
  }

  // How far messages came: {number: [state, how often an agent was handed it, why it failed]} of the latest ones.
  tellMessages(states, mayCancel) {
    this.told = { states: states ?? {}, mayCancel };
    for (const number of Object.keys(this.told.states)) this.tellMessage(Number(number));
  }

  tellMessage(number) {
    const place = this.messages.get(number);
    const [state, attempts, why] = this.told.states[number] ?? [];
    if (place === undefined || state === undefined) return;
    const tries = attempts > 1 ? `, ${attempts} tries` : "";
    const words = (state === "queued" ? "waits" : state) + tries;
    if (place.dataset.told === `${words} ${this.told.mayCancel}`) return;
    place.dataset.told = `${words} ${this.told.mayCancel}`;
    place.dataset.state = state;
    place.title = why ? visible(why) : `Message ${number}`;
    place.textContent = words;
    place.classList.toggle("done", state === "answered" || state === "delivered");
    if (!this.told.mayCancel || (state !== "queued" && state !== "failed")) return;
    const button = make("button", "cancel", state === "queued" ? "Take back" : "Discard");
    button.type = "button";
    button.addEventListener("click", () => this.onCancel(number));
    place.append(button);
  }

  // Rendered markdown where the server gave it, plain text where not.
  prose(event) {
    if (typeof event.html !== "string") return make("div", "said plain", visible(event.text));
    const body = make("div", "said");
    body.innerHTML = event.html; // safe: sessions/stream/markdown.py
    return body;
  }

  state(event) {
    const element = make("div", "entry state", make("span", "words", visible(event.text)), time(event.at));
    element.dataset.kind = "state";
    element.dataset.seq = event.seq;
    element.dataset.state = event.data.state ?? "";
    if (event.data.verdict) element.dataset.verdict = event.data.verdict;
    this.root.append(element);
    if (event.data.verdict) this.drafts = [];
  }

  text(event) {
    if (this.writing === null || this.writing.run !== event.run) {
      const node = document.createTextNode("");
      const element = this.block(event, "text", make("div", "said plain", node));
      this.writing = { element, node, run: event.run };
      this.drafts.push(this.writing);
    }
    this.writing.node.appendData(visible(event.text));
  }

  // An answer takes the place of the parts that it was written in; what is not in it stays.
  result(event) {
    const [part, parts] = [event.data.part, event.data.parts].map((count) => (Number.isInteger(count) ? count : 1));
    this.answer = part === 1 ? event.text : this.answer + event.text;
    const element = this.block(event, "result", this.prose(event));
    if (parts > 1) element.querySelector(".meta").append(make("span", "", `part ${part} of ${parts}`));
    if (part < parts) return;
    const squeeze = (text) => text.replace(/\s+/g, "");
    const answer = squeeze(visible(this.answer));
    for (const draft of this.drafts) {
      if (draft.run === event.run && answer.includes(squeeze(draft.node.data))) draft.element.remove();
    }
    this.drafts = [];
    this.answer = "";
  }

  tool(event) {
    const { phase, id, input, output, is_error: failed } = event.data;
    let call = this.tools.get(id);
    if (phase !== "result" || call === undefined) {
      const summary = make("summary", "", make("code", "name", visible(event.text || "tool")));
      summary.append(make("span", "preview", brief(input ?? output)), make("span", "outcome", ""));
      const details = make("details", "", summary);
      if (input !== undefined) details.append(make("div", "caption", "Input"), make("pre", "plain", written(input)));
      call = this.block(event, "tool", details);
      if (id) this.tools.set(id, call);
    }
    if (phase !== "result") return;
    this.tools.delete(id);
    call.classList.add(failed ? "failed" : "done");
    call.querySelector(".outcome").textContent = failed ? "failed" : "done";
    call.querySelector("details").append(make("div", "caption", "Output"), make("pre", "plain", written(output)));
  }

  // An error or a gap: impossible to overlook; and any kind that this page does not know.
  loud(event) {
    const { events = "?", bytes = "?" } = event.data;
    const missing = event.kind === "gap" ? ` (${brief(events)} events, ${brief(bytes)} bytes)` : "";
    const text = event.text || (event.kind === "gap" ? "" : written(event.data));
    const element = this.block(event, event.kind, make("pre", "plain", visible(text) + missing));
    if (event.kind === "error" || event.kind === "gap") element.setAttribute("role", "alert");
  }

  raw(event) {
    if (this.output === null || this.output.run !== event.run) {
      const body = make("div", "terminal");
      body.tabIndex = 0;
      body.setAttribute("role", "group");
      body.setAttribute("aria-label", "Raw output");
      const element = this.block(event, "output", body);
      if (this.parsers.run !== event.run) this.parsers = { run: event.run, stdout: new Ansi(), stderr: new Ansi() };
      this.output = { run: event.run, terminal: new Terminal(body, this.parsers), element };
      this.writing = null;
    }
    this.output.terminal.write(event.kind, event.text);
    if (event.kind === "stderr") this.output.element.classList.add("has-stderr");
    return true;
  }

  // Small print about the run; it neither ends an answer nor a stretch of output, unless the run or turn ends.
  mark(event) {
    const { kind, data } = event;
    if (kind === "delivered") this.deliver(data.number);
    if (kind === "exit" || (kind === "turn" && data.state === "idle")) this.output = this.writing = null;
    const words = {
      delivered: `message ${brief(data.number)} delivered`,
      turn: data.state === "idle" ? "the agent waits" : "the agent works",
      usage: `usage: ${brief(data, 200)}`,
      session: `conversation ${brief(data.id)}`,
      exit: `exit ${brief(data.code ?? "?")}`,
    }[kind];
    const element = make("div", `mark ${kind}`, make("span", "", visible(words)), time(event.at));
    element.dataset.kind = kind;
    element.dataset.seq = event.seq;
    this.root.append(element);
    return false;
  }

  deliver(number) {
    const place = this.messages.get(number);
    if (place === undefined || this.told.states[number]) return;
    place.textContent = "delivered";
    place.classList.add("done");
  }
}
