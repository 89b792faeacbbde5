"""The operators' pages in a real browser: lists, bulk actions, a run's page, limits."""

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import Browser, Page, expect

from sessions.lifecycle import intake
from sessions.models import AgentSession, Run, RunRecord
from tests.browser.conftest import Talk

pytestmark = pytest.mark.browser
Opener = Callable[[str], Page]


@pytest.fixture
def operate(chromium: Browser, talk: Talk) -> Iterator[Opener]:
    """Open an address as an operator."""
    operator, _ = User.objects.get_or_create(username="operator", is_staff=True, is_superuser=True)
    client = Client()
    client.force_login(operator)
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    cookie = client.cookies[settings.SESSION_COOKIE_NAME].value
    context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": cookie, "url": talk.server.url}])
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))

    def open_page(path: str) -> Page:
        page.goto(talk.server.url + path)
        return page

    yield open_page
    context.close()
    assert problems == []


def search(talk: Talk) -> str:
    """The list of sessions, of the talk's group alone."""
    return reverse("admin:agent_sessions_agentsession_changelist") + f"?q={talk.session.group.slug}"


def fits(page: Page) -> bool:
    """Whether nothing stands beyond the right edge."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


def test_the_list_tells_how_a_session_is(talk: Talk, operate: Opener) -> None:
    page = operate(search(talk))
    row = page.locator("#result_list tbody tr", has_text="Check the moorings")

    expect(row).to_contain_text("Queued", ignore_case=True)
    expect(row).to_contain_text("Message Hello")
    expect(row).to_contain_text("Harbour / workbench-")
    assert fits(page)


def test_chosen_sessions_are_stopped_after_a_question(talk: Talk, operate: Opener) -> None:
    other = intake.open_session(
        group=talk.session.group, profile=talk.session.profile, text="Hello", sender=None, title="Paint the hull"
    )
    intake.stop(other, by="ada")
    page = operate(search(talk))
    for box in page.locator("#result_list input.action-select").all():
        box.check()
    page.select_option("select[name=action]", "stop_sessions")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("heading", name="Stop these sessions?")).to_be_visible()
    page.get_by_role("button", name="Stop", exact=True).click()

    expect(page.get_by_text("1 stopped, 1 had nothing to stop.")).to_be_visible()
    talk.session.refresh_from_db()
    assert talk.session.state == "idle"


def test_a_run_shows_how_its_start_went(talk: Talk, operate: Opener) -> None:
    begin = timezone.now() - timedelta(minutes=1)
    run = Run.objects.create(
        session=talk.session,
        number=1,
        runtime="kubernetes",
        state="ended",
        queued_at=begin,
        claimed_at=begin + timedelta(seconds=4),
        made_at=begin + timedelta(seconds=5),
        started_at=begin + timedelta(seconds=8),
        ended_at=begin + timedelta(seconds=20),
        removed_at=begin + timedelta(seconds=21),
        verdict="agent_error",
        verdict_words="The agent ended with exit code 3.",
        exit_code=3,
        last_lines="oh no",
    )
    notice = {"at": begin.isoformat(), "reason": "Scheduled", "text": "to node-1", "count": 1}
    scheduled = (begin + timedelta(seconds=6)).isoformat()
    RunRecord.objects.create(run=run, steps={"scheduled": scheduled}, notices=[notice], manifest={"kind": "Job"})
    page = operate(reverse("admin:agent_sessions_run_change", args=[run.pk]))

    expect(page.get_by_text("The agent ended with exit code 3.")).to_be_visible()
    widths = {
        step: page.locator(f'[data-step="{step}"] rect.bar').evaluate("bar => bar.getBoundingClientRect().width")
        for step in ("claimed", "made", "scheduled", "hello")
    }
    assert widths["claimed"] > 3 * widths["made"] > 0
    expect(page.locator('[data-step="output"]')).to_contain_text("not reached")
    expect(page.get_by_text("to node-1")).to_be_visible()
    manifest = page.get_by_text('"kind": "Job"')
    expect(manifest).to_be_hidden()
    page.get_by_text("The manifest, with secrets masked").click()
    expect(manifest).to_be_visible()
    assert fits(page)
    page.get_by_role("link", name="Session: Check the moorings").click()
    expect(page).to_have_url(talk.url)


def test_a_message_that_waits_is_taken_back_on_its_page(talk: Talk, operate: Opener) -> None:
    message = talk.session.messages.get()
    page = operate(reverse("admin:agent_sessions_message_change", args=[message.pk]))
    page.get_by_role("button", name="Take back").click()

    expect(page.get_by_text("It is cancelled.")).to_be_visible()
    assert AgentSession.objects.get(pk=talk.session.pk).state == "idle"


def test_a_group_is_paused_with_a_reason(talk: Talk, operate: Opener) -> None:
    group = talk.session.group
    page = operate(reverse("admin:groups_agentgroup_changelist") + f"?q={group.slug}")
    page.locator("#result_list input.action-select").check()
    page.select_option("select[name=action]", "pause")
    page.get_by_role("button", name="Run").click()
    page.get_by_label("Why").fill("Upgrade until noon")
    page.get_by_role("button", name="Pause").click()

    row = page.locator("#result_list tbody tr")
    expect(row).to_contain_text("Paused", ignore_case=True)
    expect(row).to_contain_text("Upgrade until noon")


def test_limits_open_from_the_menu(talk: Talk, operate: Opener) -> None:
    page = operate(search(talk))
    page.get_by_role("link", name="Limits").click()

    expect(page.get_by_text("as the setting MAX_RUNS says")).to_be_visible()
    page.get_by_role("link", name="History").click()
    expect(page.get_by_text("Nobody has changed the limits yet.")).to_be_visible()
