// One stretch of raw output: lines as a terminal would leave them, in <pre> blocks small enough to lay out quickly.
//
// All text stays in the DOM. A block takes MAX_LINES lines and is then left alone, so the browser skips those that are
// out of sight (content-visibility) and lays out only the last one when text comes.

import { dress } from "./ansi.js";
import { visible } from "./words.js";

const MAX_LINES = 500;
const MAX_CHARACTERS = 64 * 1024; // of one block, for output without line feeds
const SAME_LINE = /\r(?!\n)/;

export class Terminal {
  // `parsers` holds an Ansi for each stream: colours go on from one stretch of a run's output to the next.
  constructor(root, parsers) {
    this.root = root;
    this.parsers = parsers;
    this.returned = false; // a carriage return came last: what follows overwrites the line, unless it is a line feed
    this.endBlock();
  }

  // Show `chunk` of the stream "stdout" or "stderr".
  write(stream, chunk) {
    for (const { text, style } of this.parsers[stream].feed(chunk)) this.print(visible(text), stream, style);
  }

  print(text, stream, style) {
    if (this.returned && text) {
      this.returned = false;
      if (!/^\r*\n/.test(text)) this.eraseLine();
    }
    if (!text.includes("\r")) return this.append(text, stream, style);
    text = text.replace(/\r+\n/g, "\n");
    if (text.endsWith("\r")) {
      this.returned = true;
      text = text.replace(/\r+$/, "");
    }
    text.split(SAME_LINE).forEach((part, index) => {
      if (index) this.eraseLine();
      this.append(part, stream, style);
    });
  }

  // Put text that has no carriage returns, block by block: whole lines as long as the block has room, and a line that
  // does not end, up to MAX_CHARACTERS.
  append(text, stream, style) {
    let from = 0;
    while (from < text.length) {
      const room = MAX_CHARACTERS - this.characters;
      let end = from;
      let lineStart = -1;
      while (end < text.length && this.lines < MAX_LINES && (end === from || end - from < room / 2)) {
        const feed = text.indexOf("\n", end);
        const stop = feed < 0 ? text.length : feed + 1;
        if (stop - from > room) {
          if (end === from) end = from + room;
          break;
        }
        end = stop;
        if (feed < 0) break;
        lineStart = end;
        this.lines += 1;
      }
      this.put(text.slice(from, end), stream, style, lineStart < 0 ? -1 : lineStart - from);
      from = end;
      if (this.full(lineStart === end)) this.endBlock();
    }
  }

  full(atLineStart) {
    if (this.lines >= MAX_LINES || this.characters >= MAX_CHARACTERS) return true;
    return atLineStart && this.characters >= MAX_CHARACTERS / 2;
  }

  // Put text at the end of the block; `lineStart` is where its last line begins, or -1 if it holds no line feed.
  put(text, stream, style, lineStart) {
    if (!text) return;
    this.characters += text.length;
    if (this.node === null || style !== this.style || stream !== this.stream) this.newNode(stream, style);
    if (lineStart >= 0) this.line = { node: this.node, offset: this.node.length + lineStart };
    else this.line ??= { node: this.node, offset: this.node.length };
    this.node.appendData(text);
  }

  newNode(stream, style) {
    if (this.block === null) this.newBlock();
    this.node = document.createTextNode("");
    this.style = style;
    this.stream = stream;
    if (stream === "stdout" && Object.keys(style).length === 0) {
      this.block.append(this.node);
      return;
    }
    const span = document.createElement("span");
    if (stream === "stderr") span.className = "term-stderr";
    dress(span, style);
    span.append(this.node);
    this.block.append(span);
  }

  newBlock() {
    this.block = document.createElement("pre");
    this.block.className = "term-lines";
    this.root.append(this.block);
  }

  endBlock() {
    this.block = null;
    this.lines = 0;
    this.characters = 0;
    this.node = null; // the text node that takes what comes
    this.line = null; // where the last line begins: {node, offset}
  }

  // Progress bars write a line over and over; what stays is the last.
  eraseLine() {
    if (this.line === null) return;
    const { node, offset } = this.line;
    const holder = node.parentNode === this.block ? node : node.parentNode;
    while (holder.nextSibling) {
      this.characters -= holder.nextSibling.textContent.length;
      holder.nextSibling.remove();
    }
    this.characters -= node.length - offset;
    node.deleteData(offset, node.length - offset);
    // The last node may be gone: the next text gets one of its own.
    if (this.node !== node) {
      this.node = null;
      this.line = null;
    }
  }
}
