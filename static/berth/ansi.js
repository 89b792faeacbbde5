// Raw output of programs, taken apart: text with the style that its SGR sequences give it (ECMA-48, 8.3.117).
//
// Styles are plain objects, so that the page sets them through the DOM and needs neither HTML nor inline styles, which
// the known libraries make (ansi_up 6, for one, which has no inverse either). All other escape sequences are dropped,
// and with them whatever could move the cursor, set a title or make a link.

// CSI; OSC, DCS, SOS, PM and APC strings up to their end; other escapes of two or three characters.
const ESCAPE =
  /\x1b\[([0-?]*)[ -/]*([@-~])|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]+[0-~]|\x1b[0-OQ-WYZ\\`-~]/g;
// The start of a sequence whose end is in the next chunk. A string longer than this is no string that a terminal shows.
const UNFINISHED = /\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]{0,4096}\x1b?|[ -/]*)$/;
const BELLS = /[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]/g; // control characters that print nothing
const PLAIN = Object.freeze({});

export class Ansi {
  constructor() {
    this.style = PLAIN;
    this.rest = "";
  }

  // The pieces of `chunk`: {text, style}; style is the same object as long as it does not change.
  feed(chunk) {
    let text = this.rest + chunk;
    this.rest = "";
    const unfinished = UNFINISHED.exec(text);
    if (unfinished) {
      this.rest = unfinished[0];
      text = text.slice(0, unfinished.index);
    }
    if (!text.includes("\x1b")) return text ? [{ text: clean(text), style: this.style }] : [];
    const pieces = [];
    let from = 0;
    for (const match of text.matchAll(ESCAPE)) {
      if (match.index > from) pieces.push({ text: clean(text.slice(from, match.index)), style: this.style });
      if (match[2] === "m" && !/[<-?]/.test(match[1])) this.style = styled(this.style, match[1]);
      from = match.index + match[0].length;
    }
    if (from < text.length) pieces.push({ text: clean(text.slice(from)), style: this.style });
    return pieces;
  }
}

function clean(text) {
  return text.replaceAll("\x1b", "").replace(BELLS, "");
}

const SWITCHES = {
  1: { bold: true }, 2: { dim: true }, 3: { italic: true }, 4: { underline: true }, 7: { inverse: true },
  8: { hidden: true }, 9: { strike: true }, 21: { underline: true }, 22: { bold: false, dim: false },
  23: { italic: false }, 24: { underline: false }, 27: { inverse: false }, 28: { hidden: false },
  29: { strike: false }, 39: { colour: null }, 49: { back: null },
};

function styled(style, parameters) {
  let next = { ...style };
  // A colon joins the parts of one colour (ITU T.416); programs more often use semicolons.
  const codes = parameters.split(/[;:]/).map((code) => Number(code || 0));
  for (let at = 0; at < codes.length; at++) {
    const code = codes[at];
    if (code === 0) next = {};
    else if (code === 38 || code === 48) {
      const [colour, used] = extended(codes, at + 1, parameters.includes(":"));
      next[code === 38 ? "colour" : "back"] = colour;
      at += used;
    } else if (code in SWITCHES) Object.assign(next, SWITCHES[code]);
    else if (code >= 30 && code <= 37) next.colour = code - 30;
    else if (code >= 40 && code <= 47) next.back = code - 40;
    else if (code >= 90 && code <= 97) next.colour = code - 90 + 8;
    else if (code >= 100 && code <= 107) next.back = code - 100 + 8;
  }
  const set = Object.entries(next).filter(([, value]) => value !== false && value !== null);
  return set.length ? Object.fromEntries(set) : PLAIN;
}

// A colour after 38 or 48: its value (0-15 of the theme, or CSS) and how many codes it took.
function extended(codes, at, colons) {
  if (codes[at] === 5) return [indexed(codes[at + 1] ?? 0), 2];
  if (codes[at] !== 2) return [null, 0];
  // With colons there may be a colour space before red: 38:2::R:G:B
  const start = colons && codes.length - at > 4 ? at + 2 : at + 1;
  const [red, green, blue] = [0, 1, 2].map((offset) => Math.min(codes[start + offset] ?? 0, 255));
  return [`rgb(${red}, ${green}, ${blue})`, start + 2 - at + 1];
}

// xterm's 256 colours: 16 of the theme, a cube of 6 × 6 × 6, and 24 greys.
function indexed(index) {
  if (index < 16) return index;
  if (index > 255) return null;
  if (index >= 232) {
    const grey = 8 + (index - 232) * 10;
    return `rgb(${grey}, ${grey}, ${grey})`;
  }
  const level = (step) => (step === 0 ? 0 : 55 + step * 40);
  const cell = index - 16;
  return `rgb(${level(Math.floor(cell / 36))}, ${level(Math.floor(cell / 6) % 6)}, ${level(cell % 6)})`;
}

// Dress `element` in `style`. Colours of the theme are classes, so that the style sheet decides what "red" is.
export function dress(element, style) {
  const inverse = Boolean(style.inverse);
  const colour = inverse ? (style.back ?? "back") : style.colour;
  const back = inverse ? (style.colour ?? "front") : style.back;
  for (const name of ["bold", "dim", "italic", "underline", "strike", "hidden"]) {
    if (style[name]) element.classList.add(`ansi-${name}`);
  }
  paint(element, "color", "ansi-fg", colour);
  paint(element, "background-color", "ansi-bg", back);
}

function paint(element, property, prefix, colour) {
  if (colour === undefined) return;
  if (typeof colour === "string" && colour.startsWith("rgb")) element.style.setProperty(property, colour);
  else element.classList.add(`${prefix}-${colour}`);
}
