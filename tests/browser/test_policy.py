"""The pages' policy (controlplane/csp.py) in a real browser: no page breaks it, and each works under it."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import global_settings, settings
from django.contrib import admin
from django.contrib.auth.models import User
from django.test import Client, override_settings
from django.urls import reverse
from playwright.sync_api import Browser, Page, expect

from groups.models import ApiToken, OperatorScope
from schedules import service
from schedules.models import ScheduledTask
from sessions.models import AgentSession
from tests.browser.conftest import Server, Talk

pytestmark = pytest.mark.browser


@pytest.fixture
def chief(chromium: Browser, talk: Talk) -> Iterator[Page]:
    """A superuser's browser, which notes all that goes wrong in a page."""
    boss = User.objects.create_superuser(f"chief-{talk.session.pk}")
    client = Client()
    client.force_login(boss)
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    cookie = client.cookies[settings.SESSION_COOKIE_NAME].value
    context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": cookie, "url": talk.server.url}])
    page = context.new_page()
    page.set_default_timeout(30_000)
    noted: list[str] = []
    page.on("console", lambda said: noted.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: noted.append(str(error)))
    page.noted = noted  # type: ignore[attr-defined]
    yield page
    context.close()


# Makes Alpine read every handler, which it does else when something happens, without doing what it says.
READ_ALL = """() => document.querySelectorAll('*').forEach((element) => [...element.attributes]
    .filter(({name}) => name.startsWith('x-on:'))
    .forEach(({value}) => Alpine.evaluate(element, `false && (${value.trim().replace(/;$/, '')})`)))"""
EXPECTED = "the server responded with a status of 403"  # pages that nobody may open, such as adding an event


def rows(talk: Talk) -> None:
    """Something of every kind, so that every page has something to show."""
    talk.starts().says(("text", "Hello"), ("tool", "bash", {"phase": "use", "input": {"command": "ls"}}))
    group, profile = talk.session.group, talk.session.profile
    ApiToken.issue(talk.people["owner"], "laptop")
    OperatorScope.objects.create(user=talk.people["viewer"], group=group)
    task = ScheduledTask(group=group, profile=profile, name="Count", prompt="Count", cron="0 9 * * *")
    service.store(task, actor=talk.people["owner"], by="owner")


def addresses() -> list[str]:
    """Every list of the admin, and every page of one row of each."""
    found = [reverse("admin:index"), reverse("admin:password_change")]
    for model in admin.site._registry:
        base = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        found += [reverse(f"{base}_changelist"), reverse(f"{base}_add")]
        row = model._default_manager.order_by("-pk").first()
        if row is not None:
            found += [reverse(f"{base}_{page}", args=[row.pk]) for page in ("change", "history", "delete")]
    return [*found, reverse("admin:agent_sessions_agentsession_edit", args=[AgentSession.objects.first().pk])]


@pytest.mark.timeout(600)
def test_no_page_of_the_admin_breaks_the_policy(chief: Any, talk: Talk, server: Server) -> None:
    rows(talk)
    broken = {}
    for address in addresses():
        chief.goto(server.url + address)
        chief.wait_for_function("!window.Alpine || !document.documentElement.hasAttribute('x-cloak')")
        chief.evaluate(READ_ALL)
        complaints = [said for said in chief.noted if EXPECTED not in said]
        if complaints:
            broken[address] = sorted(set(complaints))
        chief.noted.clear()
    assert broken == {}


def test_the_policy_of_the_live_page_is_strict(talk: Talk) -> None:
    client = Client()
    client.force_login(talk.people["owner"])
    path = reverse("admin:agent_sessions_agentsession_change", args=[talk.session.pk])
    assert "unsafe" not in client.get(path)["Content-Security-Policy"]
    others = client.get(reverse("admin:index"))["Content-Security-Policy"]
    assert [part for part in others.split("; ") if "unsafe" in part] == ["style-src-attr 'unsafe-inline'"]


def test_the_admin_works_under_the_policy(chief: Any, talk: Talk, server: Server) -> None:
    rows(talk)
    page = chief
    page.goto(server.url + reverse("admin:index"))
    sidebar = page.locator("#nav-sidebar")
    expect(sidebar).to_be_visible()
    page.locator("[x-on\\:click*='sidebarDesktopOpen']").click()
    expect(sidebar).to_be_hidden()
    page.reload()
    expect(sidebar).to_be_hidden()  # it was remembered
    page.evaluate("localStorage.clear()")

    page.goto(server.url + reverse("admin:schedules_scheduledtask_add"))
    expect(page.locator("#id_cron")).to_be_visible()
    expect(page.locator("#id_every_seconds")).to_be_hidden()
    page.select_option("#id_kind", "interval")
    expect(page.locator("#id_every_seconds")).to_be_visible()
    expect(page.locator("#id_cron")).to_be_hidden()

    page.goto(server.url + reverse("admin:groups_agentgroup_change", args=[talk.session.group.pk]))
    before = page.locator("select[name$='-role']:visible").count()
    page.locator(".add-row").first.click()
    expect(page.locator("select[name$='-role']:visible")).to_have_count(before + 1)

    page.goto(server.url + reverse("admin:agent_sessions_agentsession_changelist"))
    page.locator("[x-on\\:click='filterOpen = true']").first.click()
    expect(page.get_by_role("button", name="Apply Filters")).to_be_visible()
    assert [said for said in page.noted if EXPECTED not in said] == []


def test_people_see_where_to_type_when_they_log_in(chromium: Browser, talk: Talk) -> None:
    with override_settings(PASSWORD_HASHERS=global_settings.PASSWORD_HASHERS):  # as the server, which is no test
        boss = User.objects.create_superuser(f"typing-{talk.session.pk}", password="a password of many words")
    with chromium.new_context() as context:
        page = context.new_page()
        page.goto(f"{talk.server.url}{reverse('admin:login')}")
        for label in ("Username", "Password"):
            edge = page.get_by_label(label).evaluate("field => getComputedStyle(field).borderTopWidth")
            assert edge != "0px", label
        page.get_by_label("Username").fill(boss.get_username())
        page.get_by_label("Password").fill("a password of many words")
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("#nav-sidebar")).to_be_visible()
