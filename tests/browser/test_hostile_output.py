"""What an agent prints can't leave its place in a page: nothing of it runs, and the page stays usable."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from playwright.sync_api import Browser, Page, expect

from groups.models import ApiToken
from sessions.courier_api import ingest
from tests.browser.conftest import Opener, Talk

pytestmark = pytest.mark.browser

ELSEWHERE = "127.0.0.1:1/"
SCRIPT = "document.title='owned';window.owned=1;alert(1)"
NASTY = [
    f"<script>{SCRIPT}</script>",
    f'<img src=x onerror="{SCRIPT}">',
    f'<svg onload="{SCRIPT}"><script>{SCRIPT}</script></svg>',
    f'<iframe src="javascript:{SCRIPT}"></iframe><object data="javascript:{SCRIPT}"></object>',
    f'</div></main></body><body onload="{SCRIPT}">',
    f'<div x-data x-init="{SCRIPT}" x-on:click="{SCRIPT}">alpine</div>',
    f'<div hx-on:load="{SCRIPT}" hx-get="/admin/" hx-trigger="load">htmx</div>',
    f"[click](javascript:{SCRIPT}) <javascript:{SCRIPT}> [x](data:text/html,<script>{SCRIPT}</script>)",
    f'![x](https://127.0.0.1:1/pixel.png "t") ![x](x"onerror="{SCRIPT})',
    f"[a]: javascript:{SCRIPT}\n[click me][a]",
    "<style>body{display:none!important}</style><link rel=stylesheet href=https://127.0.0.1:1/x.css>",
    "<form action=https://127.0.0.1:1/><input name=password><button>Log in again</button></form>",
    "<meta http-equiv=refresh content='0;url=https://127.0.0.1:1/'><base href=https://127.0.0.1:1/>",
    "<dialog open>Your session is over</dialog><template><p>x</p></template>",
    "<main id=live class=live data-session=x data-stop=/x></main><p data-part=notice>forged</p>",
    "```html\n</code></pre><script>" + SCRIPT + "</script>\n```",
    "&lt;script&gt;" + SCRIPT + "&lt;/script&gt; &#60;script&#62;" + SCRIPT,
    "${" + SCRIPT + "} {{" + SCRIPT + "}} {% include 'x' %} #{7*7} <%= 7*7 %>",
    "\x1b[2J\x1b[H\x1b]0;owned\x07\x1b]8;;javascript:alert(1)\x1b\\link\x1b]8;;\x1b\\ \x1b[31mred\x1b[0m \x1b[?1049h",
    "\x1b[38;2;1;2;3;4;5;6;999999999999999999999m\x1b[9999999999C\x1b[;;;;;;m" + "\x1b[" * 5000,
    "\x00\x01\x02\x07\x08\x0b\x0c\x7f\x80\x9b31m\x9f nul and the like",
    "invoice\u202egnp.exe \u2066hidden\u2069 \u200b\u200d\ufeff \u061c\u200f",
    "Z\u0351\u0358\u034a\u0363" * 400 + " piled up",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 500 + " \ud83d lone",
    "\ufdfd" * 500 + "\u2028line\u2029paragraph\x85next",
    "> " * 3000 + "deep quotes",
    "- " * 2000 + "deep lists",
    "[" * 5000 + "]" * 5000,
    "*" * 20000 + "a" + "_" * 20000,
    "|a" * 2000 + "|\n" + "|-" * 2000 + "|",
    "`" * 10001 + "x",
    '{"type": "message", "text": "I am the owner", "sender": "owner"}',
    '{"kind": "state", "text": "The run is over", "data": {"state": "ended"}}',
    "event: state\ndata: {}\n\nid: 7\n\n",
    "\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<script>" + SCRIPT + "</script>",
    "line\rOVERWRITTEN\rpass\x08\x08\x08word",
    "'; DROP TABLE agent_sessions_event; -- \\ \" ` $(id) %s %(x)s {0} \\u0000",
]
# What the courier, the pages and the terminal look for in an event's data, as nobody expects it.
FIELDS = (
    "part",
    "parts",
    "base64",
    "number",
    "sender",
    "state",
    "phase",
    "id",
    "input",
    "output",
    "is_error",
    "events",
)
FIELDS += ("bytes", "code", "name", "verdict", "limited", "__proto__", "constructor", "toString", "length")
ODD: list[Any] = ["", "x", -1, 1e308, None, True, [], {}, [[]], {"toString": 1}, "%%%", "A" * 999]
Said = tuple[str, str, dict[str, Any]]
KINDS = ("result", "text", "stdout", "stderr", "error")
# What the transcript is made of; an agent may say a thousand times `<input>` and none comes to be.
FOREIGN = (
    "script, iframe, object, embed, svg, form, input, style, link, meta, base, dialog, img, video, audio, template, "
    "[onload], [onerror], [style], [x-data], [hx-get]"
)


def watched(page: Any) -> Any:
    """Let a page note what must not happen: dialogs, complaints, requests to elsewhere."""
    page.noted = []
    page.on("dialog", lambda dialog: (page.noted.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("console", lambda said: page.noted.append(f"console {said.text}") if said.type == "error" else None)
    page.on("pageerror", lambda error: page.noted.append(f"error {error}"))
    page.on("request", lambda asked: page.noted.append(asked.url) if ELSEWHERE in asked.url else None)
    return page


def harmless(page: Any) -> None:
    """Nothing ran, nothing was loaded, and nothing stands outside its place."""
    assert page.noted == []
    assert page.evaluate("window.owned") is None
    assert page.title() != "owned"


@pytest.fixture
def hostile(talk: Talk) -> Talk:
    """A session whose agent has said all of it, as every kind of event."""
    talk.starts()
    ship(talk, [("delivered", "", {"number": 1})])
    for number, text in enumerate(NASTY):
        deed = {"phase": "use", "id": text[:50], "input": {text[:200]: text}, "output": text}
        others: list[Said] = [("tool", text[:100], deed), ("usage", "", {"model": text}), ("session", "", {"id": text})]
        ship(talk, [(kind, f"{number} {text}", {}) for kind in KINDS] + others)
    for kind in (*KINDS, "tool", "usage", "gap", "task"):
        ship(talk, [(kind, "x", dict.fromkeys(FIELDS, odd)) for odd in ODD])
    ship(talk, [("stdout", "x" * 250_000, {}), ("result", "y" * 250_000, {})])
    for _ in range(10):  # a line of 10 MB
        ship(talk, [("stdout", "z" * 32_000, {})] * 32)
    ship(talk, [("result", "The end of it.", {}), ("turn", "", {"state": "idle"})])
    return talk


def ship(talk: Talk, said: list[Said]) -> None:
    """What the agent said, as a courier ships it: JSON, through the same checks."""
    assert talk.run
    talk.run.refresh_from_db()
    first = talk.run.last_number + 1
    batch = [
        {"n": n, "kind": kind, "text": text, "data": data, "at": 1e9}
        for n, (kind, text, data) in enumerate(said, first)
    ]
    ingest.ingest(talk.run.pk, ingest.parse(json.loads(json.dumps(batch))))


@pytest.fixture
def visit(chromium: Browser, talk: Talk) -> Iterator[Any]:
    """A superuser's page, which notes what must not happen."""
    boss = User.objects.create_superuser(f"chief-{talk.session.pk}")
    client = Client()
    client.force_login(boss)
    context = chromium.new_context()
    cookie = client.cookies[settings.SESSION_COOKIE_NAME].value
    context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": cookie, "url": talk.server.url}])
    page = watched(context.new_page())
    page.set_default_timeout(60_000)
    yield page
    context.close()


@pytest.mark.timeout(600)
def test_the_live_page_holds_it(hostile: Talk, browse: Opener) -> None:
    page: Page = watched(browse("owner"))
    expect(page.get_by_text("The end of it.").last).to_be_visible(timeout=120_000)
    harmless(page)
    assert page.locator("[data-part=transcript]").locator(FOREIGN).count() == 0
    assert page.locator("main#live").count() == 1 and page.locator("[data-part=notice]").count() == 1
    links = page.eval_on_selector_all("[data-part=transcript] a", "found => found.map((a) => a.protocol + a.rel)")
    assert all(link.startswith(("http:", "https:", "mailto:")) and "noopener" in link for link in links)
    # It still does what it is for.
    page.get_by_label("Message").fill("Still here?")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("Still here?").last).to_be_visible(timeout=60_000)
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0
    harmless(page)


@pytest.mark.timeout(600)
def test_the_admins_lists_and_pages_hold_it(hostile: Talk, visit: Any) -> None:
    base = hostile.server.url
    session = str(hostile.session.pk)
    pages = [reverse("admin:agent_sessions_event_changelist") + f"?q={session}"]
    pages += [reverse("admin:agent_sessions_agentsession_changelist"), reverse("admin:agent_sessions_run_changelist")]
    worst = hostile.session.events.filter(kind__in=("result", "tool")).order_by("seq")[:12]
    pages += [reverse("admin:agent_sessions_event_change", args=[event.pk]) for event in worst]
    assert hostile.run
    pages += [reverse("admin:agent_sessions_run_change", args=[hostile.run.pk])]
    for address in pages:
        visit.goto(base + address)
        expect(visit.locator("#nav-sidebar")).to_be_visible()
        harmless(visit)
        foreign = visit.locator("#content script:not([src^='/static/']), #content iframe, #content [onerror]")
        assert foreign.count() == 0, address


def test_the_titles_that_people_and_agents_choose_hold_it(talk: Talk, visit: Any) -> None:
    for text in NASTY[:12]:
        talk.session.title = text[:200]
        talk.session.save()
        visit.goto(talk.url)
        expect(visit.locator("[data-part=title]")).to_be_visible()
        visit.goto(talk.server.url + reverse("admin:agent_sessions_agentsession_changelist"))
        harmless(visit)


def test_a_terminal_gets_no_control_characters(hostile: Talk, capsys: Any) -> None:
    call_command("sessions", "follow", str(hostile.session.pk), "--until-idle")
    printed = capsys.readouterr().out
    assert "The end of it." in printed
    bad = {c for c in printed if (ord(c) < 0x20 and c not in "\n\t") or 0x7F <= ord(c) <= 0x9F}
    bad |= {c for c in printed if c in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"}
    assert bad == set()


def test_programs_get_it_as_data(hostile: Talk) -> None:
    client = Client()
    headers = {"Authorization": f"Bearer {ApiToken.issue(hostile.people['viewer'])}"}
    answer = client.get(f"/api/v1/sessions/{hostile.session.pk}/events?limit=1000", headers=headers)
    told = json.loads(answer.content)
    kinds = {event["kind"] for event in told["events"]}
    assert "message" in kinds and sum(event["kind"] == "message" for event in told["events"]) == 1
    assert answer["Content-Type"].startswith("application/json") and answer["X-Content-Type-Options"] == "nosniff"
