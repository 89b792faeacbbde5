// Words and times, and the one way in which the transcript makes elements: text is text, never HTML.

const TURNING = /[\u202a-\u202e\u2066-\u2069]/g; // they change the direction of what follows, and so what one reads
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });

// An element with a class, text and other children.
export function make(tag, className = "", ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

// `text` with the characters that turn its direction written out.
export function visible(text) {
  return text.replace(TURNING, (character) => `⟦U+${character.charCodeAt(0).toString(16).toUpperCase()}⟧`);
}

// A <time>: the reader's local time, with UTC in the title; with the day if it is not today.
export function time(at) {
  const date = new Date(at);
  const element = make("time", "");
  if (Number.isNaN(date.getTime())) return element;
  const today = date.toDateString() === new Date().toDateString();
  element.textContent = today ? clock.format(date) : `${day.format(date)}, ${clock.format(date)}`;
  element.dateTime = date.toISOString();
  element.title = `${date.toISOString().replace("T", " ").replace(/\.\d+Z$/, "")} UTC`;
  return element;
}

// What stands in `value`, in a line or in full.
export function written(value) {
  if (value === undefined || value === null) return "";
  return visible(typeof value === "string" ? value : JSON.stringify(value, null, 2));
}

export function brief(value, length = 120) {
  const held = value && typeof value === "object" && Object.keys(value).length === 1 ? Object.values(value)[0] : value;
  const line = visible(typeof held === "string" ? held : JSON.stringify(held ?? "")).replace(/\s+/g, " ").trim();
  return line.length > length ? `${line.slice(0, length)}…` : line;
}
