"""Counting the tokens of an answer while it passes: pure, fed with bytes as they come.

Both providers tell in `usage` what an answer cost: in the one JSON object, or in events of a stream (Anthropic in
`message_start` and `message_delta`, OpenAI in its last chunk or `response.completed`). An answer that ends before it
has told, because the agent hung up for instance, is counted by its length instead, so that hanging up saves nothing.
A model may think without a word of it in the answer: so one that never told counts at least what the time was enough
for. Where it told, what some providers leave out of the output (reasoning, compaction) is found in their other counts.

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
BACKGROUND = 64_000  # tokens that an answer counts which is made after this one, and whose cost nobody hears
COUNT_MAX = 1_000_000_000  # tokens in a count: a column holds more, a gateway may say anything
LINE_MAX = 4 * 1024 * 1024  # an event longer than this is not looked into
WHOLE_MAX = 16 * 1024 * 1024  # likewise an answer that is no stream
INPUT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "prompt_tokens")
OUTPUT = ("output_tokens", "completion_tokens")


class Meter:
    """Counts one answer. `asked_bytes` is the size of the request's body, `most` its limit of tokens, if any."""

    def __init__(self, content_type: str, asked_bytes: int, most: int = 0) -> None:
        self._most = most
        self._stream = content_type.partition(";")[0].strip().lower() == "text/event-stream"
        self._asked_bytes = asked_bytes
        self._left = b""  # the line that is not complete yet
        self._whole = bytearray()  # all that came of an answer that is no stream
        self._skipping = False  # the rest of a line that is too long
        self._input: dict[str, int] = {}
        self._output = 0
        self._said = 0  # characters that the model was seen to write
        self._told = False  # `usage` came with what the whole answer cost

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the answer."""
        if not self._stream:
            if len(self._whole) < WHOLE_MAX:
                self._whole += chunk
            else:
                self._said += len(chunk)
            return
        *lines, self._left = (self._left + chunk).split(b"\n")
        for line in lines:
            if not self._skipping and line.startswith(b"data:"):
                self._look(line[5:])
            self._skipping = False
        if len(self._left) > LINE_MAX:
            self._said += len(self._left)
            self._left, self._skipping = b"", True

    def total(self, seconds: float = 0.0) -> tuple[int, int]:
        """Tokens in and out, once the answer has ended or was cut off, `seconds` after it was asked for."""
        if self._whole:
            self._look(bytes(self._whole))
            self._said += 0 if self._told else len(self._whole)
            self._whole.clear()
        tokens_in = sum(self._input.values()) or -(-self._asked_bytes // CHARACTERS)
        if self._told:
            return tokens_in, self._output
        unseen = int(seconds * PER_SECOND)
        unseen = min(unseen, self._most) if self._most else unseen
        return tokens_in, max(self._output, -(-self._said // CHARACTERS), unseen)

    def _look(self, data: bytes) -> None:
        try:
            event = json.loads(data)
            if not isinstance(event, dict):
                return
            self._said += _written(event)
        except (ValueError, RecursionError):  # [DONE], or what is no JSON that anybody reads
            return
        if not self._told and any(_is_background(place) for place in (event, event.get("response"))):
            self._said = max(self._said, BACKGROUND * CHARACTERS)
        for place in (event, event.get("message"), event.get("response")):
            usage = place.get("usage") if isinstance(place, dict) else None
            if isinstance(usage, dict):
                self._take(usage)
                # What a stream says at its beginning is not all.
                self._told = self._told or event.get("type") != "message_start"

    def _take(self, usage: dict[str, Any]) -> None:
        """Counts grow within an answer, so the largest is the last."""
        steps = usage.get("iterations")
        steps = [each for each in steps if isinstance(each, dict)] if isinstance(steps, list) else []
        for name in INPUT:
            count = max(_count(usage.get(name)), sum(_count(step.get(name)) for step in steps))
            if count:
                self._input[name] = max(self._input.get(name, 0), count)
        written = [max(_count(usage.get(name)), sum(_count(step.get(name)) for step in steps)) for name in OUTPUT]
        besides = _count(usage.get("total_tokens")) - _count(usage.get("prompt_tokens"))
        self._output = max(self._output, *written, besides if "prompt_tokens" in usage else 0)


def _is_background(place: Any) -> bool:
    return isinstance(place, dict) and place.get("background") is True


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
