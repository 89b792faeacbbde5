"""Every error of the API is problem details, whoever found it."""

import errno
import json
from typing import Any

import pytest
from django.db import InterfaceError, OperationalError
from django.test import Client

from groups.models import AgentGroup, ApiToken

pytestmark = pytest.mark.django_db


def told(answer: Any, status: int) -> dict[str, Any]:
    assert (answer.status_code, answer["Content-Type"]) == (status, "application/problem+json"), answer.content
    found: dict[str, Any] = json.loads(answer.content)
    assert found["status"] == status and found["title"] and found["detail"] and found["type"] == "about:blank"
    return found


@pytest.fixture
def program(people: dict[str, Any]) -> Client:
    token = ApiToken.issue(people["member"])
    return Client(headers={"Authorization": f"Bearer {token}"}, raise_request_exception=False)


def test_a_method_that_is_not_there(program: Client) -> None:
    answer = program.put("/api/v1/groups")
    assert "GET" in told(answer, 405)["detail"] and answer["Allow"] == "GET"


@pytest.mark.parametrize("path", ["/api/", "/api/v1/", "/api/v1/nothing", "/api/v2/groups", "/api/v1/sessions/x"])
def test_an_address_that_is_not_there(program: Client, path: str) -> None:
    told(program.get(path), 404)


def test_a_host_that_is_not_ours(program: Client) -> None:
    told(program.get("/api/v1/groups", headers={"Host": "evil.example"}), 400)


def caused(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


class DiskFull(Exception):
    """As psycopg's: https://www.postgresql.org/docs/current/errcodes-appendix.html"""

    sqlstate = "53100"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OperationalError("connection refused to 10.0.0.9"), 503),
        (InterfaceError("connection already closed"), 503),
        (OperationalError("database or disk is full"), 507),
        (caused(OperationalError("could not extend file"), DiskFull()), 507),
        (OSError(errno.ENOSPC, "No space left on device"), 507),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 507),
        (OSError(errno.EACCES, "10.0.0.9"), 500),
        (KeyError("10.0.0.9"), 500),
    ],
)
@pytest.mark.parametrize("where", ["view", "authentication"])
def test_a_fault_keeps_its_words_to_itself(
    program: Client, monkeypatch: Any, error: Exception, status: int, where: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    if where == "view":
        monkeypatch.setattr(AgentGroup.objects, "visible_to", fail)
    else:
        monkeypatch.setattr(ApiToken, "authenticate", fail)
    answer = program.get("/api/v1/groups")
    assert "10.0.0.9" not in told(answer, status)["detail"]
    assert (status == 503) == ("Retry-After" in answer)


def test_pages_have_their_own_errors(program: Client) -> None:
    assert program.get("/nothing")["Content-Type"].startswith("text/html")
