"""Any program: the message on its input, then the end of file; its output is the answer, exit 0 is success."""

from collections.abc import Callable

from courier.contracts.base import Contract, Handover, Message
from courier.events import Event


class Plain(Contract):
    """One message a run. Output goes out as it comes, as `text`, and once more as `result` when all went well."""

    kind = "text"
    structured = False
    once = True
    input_ends = True

    def handover(self, message: Message) -> Handover:
        return Handover(message.text.encode(errors="replace"), eof=True)

    def close(self) -> Handover:
        return Handover(eof=not self.state["delivered"])  # else it has ended already, and the agent with it

    def finish(self, code: int, output: Callable[[], tuple[int, bytes | None]]) -> list[Event]:
        if code:
            return [Event("error", f"exit status {code}")]
        size, answer = output()
        if answer is None:
            note = f"The answer has {size:,} bytes, too many to repeat them as a result: it is the output above."
            return [Event("result", note, {"cut": True, "bytes": size})]
        return [Event("result", answer.decode(errors="replace"))]
