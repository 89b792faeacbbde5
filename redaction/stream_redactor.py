"""Text that comes in chunks, without the secrets, also those that are split over chunks.

A chunk is held back as long as the end of the text so far may be the beginning of a secret. When that takes too long,
or something else follows, `flush` ends it: a beginning so short that it tells little is shown, a longer one replaced.
Either way it is remembered (the `context`), so that the rest is replaced too, should it come after all.
"""

from typing import Any

from redaction.invisible import LINE_ENDS, invisible_runs, normalize
from redaction.multi_search import PartialMatch
from redaction.secret_search import SecretSearch, checksum
from redaction.spans import Span, label, merge

MAX_SHORT_PREFIX = 3  # bytes of a beginning that hold back no line: almost any letter may begin something
MAX_HELD_BACK = 256 * 1024  # bytes that are held back at most


class StreamRedactor:
    """One text. After a restart it goes on with the `checkpoint` of the one before, where none was held back."""

    def __init__(self, checkpoint: Any = None) -> None:
        self.data = b""  # the context, then the chunks that wait
        self.context = 0  # bytes at the beginning of `data` that were given out by the last flush
        self.context_mask = ""  # the name of the secret that it was replaced by; "" if it was shown
        self.chunks: list[bytes] = []
        self.continues: list[bool] = []  # of each chunk that was given out last: a secret goes on in the next one
        self.spans: list[Span] = []  # of what begins before `searched`
        self.searched = 0  # what begins before it has been searched for
        self.restoring = checkpoint if isinstance(checkpoint, list) and len(checkpoint) == 4 else None

    @property
    def is_holding(self) -> bool:
        """Tell whether chunks wait for what comes next."""
        return bool(self.chunks)

    @property
    def checkpoint(self) -> list[Any] | None:
        """What a restart needs, as JSON: a context that was shown, or name, length and checksum of one that was not.

        The checksum has 16 bits, too few to tell anything of the bytes but which of the known ones they are.
        """
        if self.restoring or not self.context:
            return self.restoring
        context = normalize(self.data[: self.context])
        if self.context_mask:
            return ["", self.context_mask, len(context), checksum(context)]
        return [context.decode("latin-1"), "", 0, 0]

    def feed(self, chunks: list[bytes]) -> None:
        """Add the text's next chunks."""
        self.chunks += chunks
        self.data = b"".join([self.data, *chunks])

    def release(self, search: SecretSearch, flush: bool = False) -> list[bytes]:
        """Return the first of the chunks that wait, as far as they are decided (all with `flush`), without secrets.

        A secret that is split is replaced in the chunk in which it begins; the rest of it is left out of the others.
        """
        if not self.chunks:
            return []
        self._restore_context(search)
        result, end = search.search(self.data, self.searched), len(self.data)
        spans, partial = self.spans + result.spans, result.partial
        full = end - self.context > MAX_HELD_BACK
        if partial and not (flush or full or self._ends_in_short_prefix(partial)):
            return self._emit([span for span in spans if span.start < partial.start], partial.start)
        name = ""
        if partial:
            mask_from = partial.start if self.context_mask and partial.start < self.context else partial.mask_from
            if mask_from is not None:
                spans.append(Span(mask_from, end, self.context_mask or partial.name))
            name = next((span.name for span in spans if span.end == end), "")
        keep = self.data[partial.start :] if partial else b""
        emitted = self._emit(spans, end)
        self.data, self.context, self.context_mask, self.searched = keep, len(keep), name, 0
        return emitted

    def _restore_context(self, search: SecretSearch) -> None:
        """Make the context of an earlier stream again from its checkpoint."""
        if self.restoring:
            shown, self.context_mask, length, check = self.restoring
            masked = self.context_mask != ""
            context = (
                search.prefix_of(self.context_mask, length, check) if masked else shown.encode("latin-1", "replace")
            )
            self.data, self.context, self.restoring = context + self.data, len(context), None

    def _ends_in_short_prefix(self, partial: PartialMatch) -> bool:
        """Tell whether a line ends in a beginning that is so short that the line needn't wait."""
        if partial.mask_from is not None or self.data[-1:] != b"\n":
            return False
        return len(self.data.rstrip(LINE_ENDS)) - partial.start <= MAX_SHORT_PREFIX

    def _emit(self, spans: list[Span], limit: int) -> list[bytes]:
        """Return the chunks that end at or before `limit` and not within a span, and forget them."""
        emitted: list[bytes] = []
        self.continues = []
        ahead = merge(spans)[::-1]  # the next one is the last
        start, taken, cut = self.context, 0, 0
        runs = invisible_runs(self.data) if b"\x1b" in self.data else []
        for chunk in self.chunks:
            end = start + len(chunk)
            if end > limit:
                break
            emitted.append(self._redact_chunk(ahead, chunk, start) if ahead else chunk)
            start = end
            # The rest of a sequence by itself would be letters, which may stand before a key.
            split = any(run.start < end < run.end for run in runs)
            self.continues.append((bool(ahead) and ahead[-1].start < end) or split)
            if not self.continues[-1]:
                taken, cut = len(emitted), end
        self.chunks = self.chunks[taken:]
        if taken:
            self.data, self.context, self.context_mask = self.data[cut:], 0, ""
        self.spans = [Span(span.start - cut, span.end - cut, span.name) for span in spans if span.end > cut]
        self.searched = limit - cut
        return emitted[:taken]

    def _redact_chunk(self, ahead: list[Span], chunk: bytes, start: int) -> bytes:
        """Return the chunk that stands at `start` without the spans, and drop those that end in it."""
        end, position, parts = start + len(chunk), start, []
        while ahead and ahead[-1].start < end:
            span = ahead[-1]
            if span.end > start:
                parts.append(self.data[position : max(span.start, start)])
                if span.start >= start or (start == self.context and not self.context_mask):
                    parts.append(label(span.name).encode())
                position = min(span.end, end)
            if span.end > end:
                break
            ahead.pop()
        return b"".join([*parts, self.data[position:end]]) if parts else chunk
