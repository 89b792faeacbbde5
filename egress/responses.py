"""The proxy's own responses: a status, a text for whoever reads it, and how they are written."""

from http import HTTPStatus

APPROVAL_HINT = (
    "An owner of the group can ask for it on the group's page in Berth, where this refusal is listed. "
    "Once it is approved, try again: nothing has to be restarted."
)


class ErrorResponse(Exception):
    """Raised to answer a request by the proxy itself.

    `summary` stands in the status line too, since many clients show no more; `hint` says what to do about it. `code` is
    set where the run's session shows the denial (docs/egress.md), with `reason`.
    """

    def __init__(self, status: int, summary: str, hint: str = "", *, code: str = "", retry_after: int = 0) -> None:
        """`retry_after` is in seconds."""
        super().__init__(summary)
        self.status, self.summary, self.hint, self.code, self.retry_after = status, summary, hint, code, retry_after
        self.reason = summary

    def encode(self, *, body: bool = True) -> bytes:
        """Return the response's bytes; without a body for HEAD."""
        text = f"Berth's egress proxy: {printable(self.summary)}.\n{printable(self.hint)}\n".encode()
        phrase = f"{HTTPStatus(self.status).phrase} ({printable(self.summary)})"
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


def printable(text: str) -> str:
    """Return the text with spaces for control characters, so that it stays where it is written."""
    return "".join(character if character.isprintable() else " " for character in text)


def forbidden(code: str, summary: str, hint: str = APPROVAL_HINT) -> ErrorResponse:
    """Return the response to a host, port or address that may not be reached."""
    return ErrorResponse(403, summary, hint, code=code)
