// A session's live page: puts the connection, the transcript and the buttons together.

import { Composer, post } from "./actions.js";
import { Connection } from "./connection.js";
import { Follow } from "./follow.js";
import { Transcript } from "./transcript.js";
import { visible } from "./words.js";

const page = document.getElementById("live");
const part = (name) => page.querySelector(`[data-part="${name}"]`);
const token = page.querySelector("[name=csrfmiddlewaretoken]").value;
const CANNOT_WRITE = "You may read this session. Only members and owners of its group may write.";

const follow = new Follow({
  scroller: part("scroller"), content: part("transcript"), toggle: part("follow"), jump: part("jump"),
});
const transcript = new Transcript(part("transcript"), {
  me: page.dataset.me,
  onCancel: (number) => act("cancel", { number }),
  onShown: (count) => {
    if (count) part("empty").hidden = true;
    follow.grown(count);
  },
});
const composer = new Composer(part("composer"), {
  error: part("send-error"), address: page.dataset.message, token, draftKey: `draft:${page.dataset.session}`,
});

function showSession(session) {
  setText("title", session.title);
  setText("group", session.group);
  setText("profile", session.profile);
  const state = part("state");
  state.textContent = session.state_label;
  state.dataset.colour = session.colour;
  setText("reason", session.reason);
  const { number, verdict, verdict_words: words } = session.run ?? {};
  const ended = verdict === "oom" ? "out of memory" : verdict?.replaceAll("_", " ");
  setText("run", session.run ? `Run ${number}${ended ? `: ${ended}` : ""}` : "");
  setText("verdict", words === session.reason ? "" : words); // a session that is over gives its verdict as the reason
  setText("warning", session.warning);
  const waits = session.queued === 1 ? "message waits" : "messages wait";
  setText("queued", session.queued ? `${session.queued} ${waits}` : "");
  part("stop").disabled = !(session.can_write && session.can_stop);
  part("close").disabled = !(session.can_write && session.can_close);
  part("retry").hidden = !(session.can_write && session.can_retry);
  part("retry").disabled = false;
  page.dataset.state = session.state;
  transcript.tellMessages(session.messages, session.can_write);
  composer.allow(session.can_write, CANNOT_WRITE);
  document.title = `${visible(session.title)}: ${session.state_label} | Berth`;
}

function setText(name, text) {
  const element = part(name);
  const shown = visible(text ?? "");
  if (element.textContent !== shown) element.textContent = shown;
  element.hidden = !shown;
}

const notice = { crowded: "" }; // what the server last said of too many pages

function showStatus({ state, seconds, why: crowded = "" }) {
  const words = {
    connecting: "Connecting…",
    live: "Live",
    waiting: seconds ? `Reconnecting in ${seconds} s` : "Reconnecting…",
    gone: "Not visible any more",
    login: "Log in again",
  }[state];
  part("connection").dataset.state = state;
  setText("connection-words", words);
  if (state === "waiting" && crowded) setText("notice", crowded);
  else if (state === "live" && part("notice").textContent === notice.crowded) setText("notice", "");
  notice.crowded = crowded || notice.crowded;
  if (state !== "gone" && state !== "login") return;
  const why = {
    gone: "This session is not visible to you any more. What you see is how it was.",
    login: "You are not logged in any more. Log in and load this page again.",
  }[state];
  setText("notice", why);
  part("stop").disabled = part("close").disabled = true;
  composer.allow(false, why);
}

// Do what the page's `data-NAME` is the address of; the button of that name, if there is one, waits for the answer.
async function act(name, fields = {}) {
  const button = part(name);
  if (button) button.disabled = true;
  setText("notice", "");
  try {
    await post(page.dataset[name], token, fields);
  } catch (error) {
    setText("notice", error.message);
    if (button) button.disabled = false;
  }
}

part("stop").addEventListener("click", () => part("confirm").showModal());
part("confirm").addEventListener("close", () => {
  if (part("confirm").returnValue === "stop") act("stop");
  part("confirm").returnValue = "";
});
part("retry").addEventListener("click", () => act("retry"));
part("close").addEventListener("click", () => act("close"));
part("details").addEventListener("click", () => {
  const shown = page.classList.toggle("show-details");
  part("details").setAttribute("aria-pressed", String(shown));
});

const connection = new Connection(page.dataset.stream, {
  onEvents: (events) => transcript.add(events),
  onRemoved: (seq) => {
    part("empty").hidden = true;
    transcript.removed(seq);
  },
  onSession: showSession,
  onStatus: showStatus,
});
connection.start();
