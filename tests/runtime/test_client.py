"""How the API server's refusals become faults."""

from typing import Any

import pytest

from k8s_adapter.client import Conflict, Expired, NotFound, fault
from runtimes.base import Cause, PermanentFault, RuntimeFault, TransientFault

TERMINATING = {"message": "it is being terminated", "details": {"causes": [{"reason": "NamespaceTerminating"}]}}

CASES: list[tuple[int, dict[str, Any], type[RuntimeFault], Cause]] = [
    (400, {"message": "bad"}, PermanentFault, Cause.REJECTED),
    (401, {"message": "Unauthorized"}, TransientFault, Cause.UNREACHABLE),
    (403, {"message": "jobs is forbidden: User may not"}, PermanentFault, Cause.REJECTED),
    (403, {"message": "forbidden: exceeded quota: small, requested: count/jobs.batch=1"}, TransientFault, Cause.QUOTA),
    (403, TERMINATING, TransientFault, Cause.REJECTED),
    (404, {"message": "not found"}, NotFound, Cause.VANISHED),
    (409, {"message": "already exists"}, Conflict, Cause.REJECTED),
    (410, {"message": "too old resource version"}, Expired, Cause.UNREACHABLE),
    (422, {"message": "Job is invalid"}, PermanentFault, Cause.REJECTED),
    (429, {"message": "too many requests"}, TransientFault, Cause.UNREACHABLE),
    (500, {"message": "etcdserver: leader changed"}, TransientFault, Cause.UNREACHABLE),
    (503, {}, TransientFault, Cause.UNREACHABLE),
]


@pytest.mark.parametrize(("status", "body", "kind", "cause"), CASES, ids=[f"{case[0]}-{case[3]}" for case in CASES])
def test_a_refusal_becomes_a_fault(status: int, body: dict[str, Any], kind: type[RuntimeFault], cause: Cause) -> None:
    raised = fault(status, body)
    assert type(raised) is kind
    assert raised.cause is cause
    assert body.get("message", f"HTTP {status}") in str(raised)


def test_retry_after_is_obeyed() -> None:
    raised = fault(429, {}, "17")
    assert isinstance(raised, TransientFault)
    assert raised.retry_after == 17.0


def test_a_retry_after_that_is_a_date_is_passed_over() -> None:
    raised = fault(503, {}, "Sun, 06 Nov 1994 08:49:37 GMT")
    assert isinstance(raised, TransientFault)
    assert raised.retry_after == 1.0
