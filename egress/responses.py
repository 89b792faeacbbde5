"""Answers of the proxy's own: a status, words for whoever reads them, and how they are written."""

from http import HTTPStatus

PLACE = (
    "An owner of the group can ask for it on the group's page in Berth, where this refusal is listed. "
    "Once it is approved, try again: nothing has to be restarted."
)


class Refusal(Exception):
    """A request is answered by the proxy itself. `short` stands in the status line too: many clients show no more.

    `code` is set where the run's session is told of it (docs/egress.md), and `reason` is what it is told.
    """

    def __init__(self, status: int, short: str, more: str = "", *, code: str = "", retry_after: int = 0) -> None:
        """`retry_after` is in seconds."""
        super().__init__(short)
        self.status, self.short, self.more, self.code, self.retry_after = status, short, more, code, retry_after
        self.reason = short

    def encode(self, *, body: bool = True) -> bytes:
        """Return the answer's bytes; without a body for HEAD."""
        text = f"Berth's egress proxy: {clean(self.short)}.\n{clean(self.more)}\n".encode()
        phrase = f"{HTTPStatus(self.status).phrase} ({clean(self.short)})"
        headers = {
            "Content-Type": "text/plain; charset=utf-8",
            "Content-Length": str(len(text)),
            "Cache-Control": "no-store",
            "Connection": "close",
        }
        if self.status == 407:
            headers["Proxy-Authenticate"] = 'Basic realm="berth"'
        if self.retry_after:
            headers["Retry-After"] = str(self.retry_after)
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        start = f"HTTP/1.1 {self.status} ".encode() + phrase.encode("ascii", "replace")
        return start + f"\r\n{head}\r\n".encode() + (text if body else b"")


def clean(words: str) -> str:
    """Return words without control characters, so that they stay where they are written."""
    return "".join(character if character.isprintable() else " " for character in words)


def denied(code: str, short: str, more: str = PLACE) -> Refusal:
    """Return the refusal of a host, port or address."""
    return Refusal(403, short, more, code=code)
