"""Who gets what at every address: one row each, in `access_table.txt`. An address without a row fails the test.

The columns are the statuses of GET, and of a POST without content (or what INSTEAD says), for each of PEOPLE in their
order. All but `anonymous` may use the admin. `operator` operates the group of the rows and has all of Django's
permissions, `elsewhere` the same for another group. 404 and 403 keep somebody out; so does 302, to the login page, for
`anonymous`. 405, 422 and a form with errors (200) say that they were let in and that an empty POST is not what is
wanted. A failing test prints the rows that it found.
"""

import asyncio
import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from channels.testing import WebsocketCommunicator
from django.contrib import admin
from django.contrib.auth.models import AnonymousUser, Group, Permission, User
from django.contrib.sessions.backends.cache import SessionStore
from django.db import transaction
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone

from broker.models import BrokerUsage
from controlplane import asgi
from egress_policy.models import EgressRequest, EgressRule
from groups.choices import MountKind, SecretKind
from groups.models import (
    AgentGroup,
    AgentProfile,
    ApiToken,
    BrokeredKey,
    GroupMount,
    Limits,
    MountRoot,
    OperatorScope,
    SecretReference,
)
from isolation.models import Proof
from schedules import service
from schedules.models import ScheduledTask
from sessions.lifecycle import transitions
from sessions.models import AgentSession
from tests.unit.test_courier_api import ask

PEOPLE = ("anonymous", "outsider", "viewer", "member", "owner", "operator", "elsewhere", "superuser")
TABLE = Path(__file__).with_name("access_table.txt")
# What is done instead of a POST without content, where that would tell nothing.
INSTEAD: dict[str, tuple[str, Any]] = {
    "api-1:change_task": ("patch", {"name": "x"}),
    "api-1:remove_task": ("delete", None),
    "api-1:cancel_message": ("delete", None),
    "api-1:propose": ("post", {"reason": "x"}),
    "api-1:create_session": ("post", {"profile": "workbench", "message": "x"}),
    "api-1:send_message": ("post", {"text": "x"}),
    "api-1:create_task": ("post", {"prompt": "x", "cron": "0 9 * * *", "profile": "workbench"}),
}
PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>|\(\?P<(\w+)>[^)]*\)|\(\[\^/\]\+\)")


def rows() -> dict[str, list[str]]:
    """Address → the statuses of GET, then of POST."""
    lines = [line.split() for line in TABLE.read_text().splitlines() if line and not line.startswith("#")]
    return {name: statuses for name, *statuses in lines}


def walk(resolver: Any, space: str = "", route: str = "") -> Iterator[tuple[str, str]]:
    """The name (or else the route) and the route of every address."""
    for pattern in resolver.url_patterns:
        whole = route + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from walk(pattern, f"{space}{pattern.namespace}:" if pattern.namespace else space, whole)
        elif isinstance(pattern, URLPattern):
            yield (f"{space}{pattern.name}" if pattern.name else f"/{whole}"), whole


@pytest.fixture
def crew(people: dict[str, Any], group: AgentGroup) -> dict[str, Any]:
    """PEOPLE, but for the anonymous one."""
    found = {name: people[name] for name in ("outsider", "viewer", "member", "owner")}
    other = AgentGroup.objects.create(slug="elsewhere")
    for name, where in (("scoped", group), ("elsewhere", other)):
        user = User.objects.create_user(f"{name}-operator")
        user.user_permissions.set(Permission.objects.all())
        OperatorScope.objects.create(user=user, group=where)
        found["operator" if name == "scoped" else name] = user
    for user in found.values():
        user.is_staff = True
        user.save()
    return found | {"superuser": people["operator"]}


@pytest.fixture
def clients(crew: dict[str, Any]) -> dict[str, Client]:
    """Everybody's browser, which sends their API token too."""
    found = {"anonymous": Client(raise_request_exception=False)}
    for name, user in crew.items():
        headers = {"Authorization": f"Bearer {ApiToken.issue(user)}"}
        found[name] = Client(raise_request_exception=False, headers=headers)
        found[name].force_login(user)
    return found


@pytest.fixture
def values(
    session: AgentSession, group: AgentGroup, profile: AgentProfile, crew: dict[str, Any], clients: dict[str, Client]
) -> dict[str, str]:
    """What stands in an address for each parameter, and for `MODEL_…` the id of a row of that model."""
    run = transitions.claim(session.pk, "local")
    assert run
    task = ScheduledTask(group=group, profile=profile, name="Count", prompt="Count", cron="0 9 * * *")
    service.store(task, actor=crew["owner"], by="owner")
    Limits().save()
    root = MountRoot.objects.create(name="shared", kind=MountKind.FOLDER, place="/srv/shared")
    GroupMount.objects.create(group=group, root=root, path="data", name="data")
    key = SecretReference.objects.create(name="model-key", kind=SecretKind.ENV, place="BERTH_SECRET_MODEL")
    key.groups.add(group)
    BrokeredKey.objects.create(provider="anthropic", group=group, reference=key)
    BrokerUsage.objects.create(group=group, day=timezone.now().date())
    EgressRule.objects.create(host="files.example.com", group=group)
    asked = EgressRequest.objects.create(group=group, profile=profile, host="example.com", port=443)
    Proof.objects.create(runtime="kubernetes", group=group.slug, beside="elsewhere", verdict="passed", rows=[])
    Group.objects.create(name="Harbour masters")
    named = {"session_id": session.pk, "task_id": task.pk, "slug": group.slug, "number": 1, "content_type_id": 1}
    named |= {
        "object_id": 1,
        "app_label": "groups",
        "url": "nowhere",
        "provider_id": "oidc",
        "id": session.pk,
        "asked_id": asked.pk,
    }
    found = {name: str(value) for name, value in named.items()}
    for model in admin.site._registry:
        row = model._default_manager.filter(group=group).first() if _of_group(model) else model._default_manager.first()
        if model is AgentGroup:
            row = group
        if model is User:
            row = crew["viewer"]
        if model is ApiToken:
            row = model.objects.get(user=crew["member"])
        found[f"{model._meta.app_label}_{model._meta.model_name}"] = str(row.pk) if row else str(uuid.UUID(int=1))
    return found


def _of_group(model: Any) -> bool:
    return any(field.name == "group" and field.is_relation for field in model._meta.fields) and model is not ApiToken


def path_of(name: str, route: str, values: dict[str, str]) -> str:
    """An address with something in the place of its parameters."""
    model = next((key for key in values if name.startswith(f"admin:{key}_")), "")

    def value(found: Any) -> str:
        parameter = found.group(1) or found.group(2) or "object_id"
        if parameter in ("object_id", "pk", "id") and model:
            return values[model]
        return values.get(parameter, "1")

    return "/" + PARAMETER.sub(value, route).replace("^", "").replace("$", "").replace("\\Z", "").replace("\\.", ".")


def status(client: Client, method: str, path: str, body: Any = None) -> str:
    """What a request gets. What it does is undone, also to the browser."""
    cookies = client.cookies.copy()
    with transaction.atomic():
        options = {} if method == "get" else {"data": body, "content_type": "application/json"}
        answer = getattr(client, method)(path, **options)
        transaction.set_rollback(True)
    client.cookies = cookies
    return str(answer.status_code)


@pytest.fixture
def one_menu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first of a person's pages has the menu: it is the same on all, and costs more than what they are for."""
    for method in ("get_app_list", "get_sidebar_list"):
        monkeypatch.setattr(admin.site, method, _once_for_each_person(getattr(admin.site, method)))


def _once_for_each_person(menu: Any) -> Any:
    had = set()

    def menu_or_nothing(request: Any, *app: Any) -> Any:
        if request.user.pk in had and not app:
            return []
        had.add(request.user.pk)
        return menu(request, *app)

    return menu_or_nothing


@pytest.mark.timeout(900)
def test_every_address_has_its_row(
    clients: dict[str, Client], values: dict[str, str], settings: Any, one_menu_each: None
) -> None:
    settings.MFA = True
    settings.LOGIN_ATTEMPTS_PER_MINUTE = 1000  # everybody's requests come from one address here
    expected, found = rows(), {}
    for name, route in walk(get_resolver()):
        path = path_of(name, route, values)
        verb, body = INSTEAD.get(name, ("post", None))
        statuses = [status(clients[person], "get", path) for person in PEOPLE]
        statuses += [status(clients[person], verb, path, body) for person in PEOPLE]
        if name not in found:
            found[name] = statuses
    wrong = {name: found.get(name) for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)}
    for name in sorted(wrong):
        print(f"{name:58}", *(wrong[name] or ["is there no more"]))
    assert sorted(wrong) == []


SOCKETS = {
    "ws/sessions/<uuid:session_id>/": {
        "anonymous": 4401, "outsider": 4404, "viewer": "read", "member": "write", "owner": "write",
        "operator": "write", "elsewhere": 4404, "superuser": "write",
    },
}  # fmt: skip


def sockets() -> list[Any]:
    """The routes of websockets, as `web` serves them."""
    application: Any = asgi.pages
    while not hasattr(application, "routes"):
        application = getattr(application, "application", None) or application.inner
    return list(application.routes)


def test_every_socket_has_its_row() -> None:
    assert {str(route.pattern) for route in sockets()} == SOCKETS.keys()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("person", PEOPLE)
def test_who_may_listen_at_a_socket(person: str, session: AgentSession, crew: dict[str, Any], settings: Any) -> None:
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.cache"
    login = SessionStore()
    login.create()

    async def scene() -> Any:
        consumer = sockets()[0].callback
        socket = WebsocketCommunicator(consumer, "/ws/?after=0")
        user = AnonymousUser() if person == "anonymous" else crew[person]
        socket.scope |= {"user": user, "session": login, "url_route": {"kwargs": {"session_id": session.pk}}}
        await socket.connect()
        while True:
            frame = await socket.receive_output(10)
            if frame["type"] == "websocket.close":
                return frame["code"]
            told = json.loads(frame["text"])
            if told["type"] == "session":
                await socket.disconnect()
                return "write" if told["session"]["can_write"] else "read"

    assert asyncio.run(asyncio.wait_for(scene(), 30)) == SOCKETS["ws/sessions/<uuid:session_id>/"][person]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("method", "path"), [("POST", "hello"), ("GET", "inbox"), ("POST", "events")])
def test_no_persons_key_opens_the_couriers_door(method: str, path: str, crew: dict[str, Any]) -> None:
    for user in crew.values():
        assert ask(None, method, path, {}, ApiToken.issue(user))[0] == 401
