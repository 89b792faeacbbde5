"""Counting the tokens of a response while it passes: pure, fed with bytes as they come.

Both providers say in `usage` what a response cost: in the one JSON object, or in events of a stream (Anthropic in
`message_start` and `message_delta`, OpenAI in its last chunk or `response.completed`). A response that ends before
that, because the agent hung up for instance, is counted by its length instead, so that hanging up saves nothing.
A model may think without a word of it in the response: so one without `usage` counts at least what the time was enough
for. Where it came, what some providers leave out of the output (reasoning, compaction) is found in their other counts.

https://docs.claude.com/en/api/messages-streaming
https://platform.openai.com/docs/api-reference/chat-streaming
https://docs.x.ai/docs/guides/reasoning (reasoning is in the total alone)
https://platform.claude.com/docs/en/build-with-claude/compaction (and it is in `iterations` alone)
https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import json
from typing import Any

CHARACTERS = 4  # of a token, roughly
PER_SECOND = 100  # tokens that a model writes, at most roughly
BACKGROUND = 64_000  # tokens that a response counts which is made after this one, and whose cost nobody hears
COUNT_MAX = 1_000_000_000  # tokens in a count: a column holds more, a gateway may say anything
LINE_MAX = 4 * 1024 * 1024  # an event longer than this is not looked into
WHOLE_MAX = 16 * 1024 * 1024  # likewise a response that is no stream
INPUT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "prompt_tokens")
OUTPUT = ("output_tokens", "completion_tokens")


class Meter:
    """Counts one response. `request_bytes` is the size of the request's body, `max_tokens` its limit, 0 for none."""

    def __init__(self, content_type: str, request_bytes: int, max_tokens: int = 0) -> None:
        self._max_tokens = max_tokens
        self._stream = content_type.partition(";")[0].strip().lower() == "text/event-stream"
        self._request_bytes = request_bytes
        self._line = b""  # that is not complete yet
        self._body = bytearray()  # all that came of a response that is no stream
        self._skipping = False  # the rest of a line that is too long
        self._input: dict[str, int] = {}
        self._output = 0
        self._characters = 0  # that the model was seen to write
        self._complete = False  # `usage` came with what the whole response cost

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the response."""
        if not self._stream:
            if len(self._body) < WHOLE_MAX:
                self._body += chunk
            else:
                self._characters += len(chunk)
            return
        *lines, self._line = (self._line + chunk).split(b"\n")
        for line in lines:
            if not self._skipping and line.startswith(b"data:"):
                self._read_event(line[5:])
            self._skipping = False
        if len(self._line) > LINE_MAX:
            self._characters += len(self._line)
            self._line, self._skipping = b"", True

    def total(self, seconds: float = 0.0) -> tuple[int, int]:
        """Tokens in and out, once the response has ended or was cut off, `seconds` after it was asked for."""
        if self._body:
            self._read_event(bytes(self._body))
            self._characters += 0 if self._complete else len(self._body)
            self._body.clear()
        tokens_in = sum(self._input.values()) or -(-self._request_bytes // CHARACTERS)
        if self._complete:
            return tokens_in, self._output
        unseen = int(seconds * PER_SECOND)
        unseen = min(unseen, self._max_tokens) if self._max_tokens else unseen
        return tokens_in, max(self._output, -(-self._characters // CHARACTERS), unseen)

    def _read_event(self, data: bytes) -> None:
        try:
            event = json.loads(data)
            if not isinstance(event, dict):
                return
            self._characters += _written(event)
        except (ValueError, RecursionError):  # [DONE], or what is no JSON that anybody reads
            return
        if not self._complete and any(_is_background(part) for part in (event, event.get("response"))):
            self._characters = max(self._characters, BACKGROUND * CHARACTERS)
        for part in (event, event.get("message"), event.get("response")):
            usage = part.get("usage") if isinstance(part, dict) else None
            if isinstance(usage, dict):
                self._add_usage(usage)
                # What a stream says at its beginning is not all.
                self._complete = self._complete or event.get("type") != "message_start"

    def _add_usage(self, usage: dict[str, Any]) -> None:
        """Counts grow within a response, so the largest is the last."""
        steps = usage.get("iterations")
        steps = [each for each in steps if isinstance(each, dict)] if isinstance(steps, list) else []
        for name in INPUT:
            count = max(_count(usage.get(name)), sum(_count(step.get(name)) for step in steps))
            if count:
                self._input[name] = max(self._input.get(name, 0), count)
        written = [max(_count(usage.get(name)), sum(_count(step.get(name)) for step in steps)) for name in OUTPUT]
        unlisted = _count(usage.get("total_tokens")) - _count(usage.get("prompt_tokens"))
        self._output = max(self._output, *written, unlisted if "prompt_tokens" in usage else 0)


def _is_background(part: Any) -> bool:
    return isinstance(part, dict) and part.get("background") is True


def _count(value: Any) -> int:
    return min(value, COUNT_MAX) if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _written(event: dict[str, Any]) -> int:
    """How many characters of the model's own an event holds."""
    deltas = [event.get("delta")]
    choices = event.get("choices")
    deltas += [each.get("delta") for each in choices if isinstance(each, dict)] if isinstance(choices, list) else []
    return sum(_length(each) for each in deltas)


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(_length(each) for name, each in value.items() if name != "type")
    return sum(_length(each) for each in value) if isinstance(value, list) else 0
