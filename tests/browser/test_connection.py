"""The page's connection: every event once and in order, over a socket that repeats, skips, hangs and closes."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, WebSocketRoute, expect

from sessions.models import AgentSession
from testbed.waiting import wait_for
from tests.browser.conftest import Opener, Talk
from tests.browser.test_live_page import live, numbered, text_of

pytestmark = pytest.mark.browser
Frame = dict[str, Any]


class Between:
    """Stands between the page and the server, and does `change` to each frame of events: one in, some out."""

    def __init__(self, page: Page, change: Callable[[Frame], list[Frame]]) -> None:
        self.change = change
        self.sockets: list[WebSocketRoute] = []
        self.acknowledged: list[int] = []
        self.hangs = False
        page.route_web_socket("**/ws/**", self.route)

    def route(self, socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()
        self.sockets.append(socket)

        def from_server(message: str | bytes) -> None:
            frame = json.loads(message)
            if not self.hangs:
                for each in self.change(frame) if frame["type"] == "events" else [frame]:
                    socket.send(json.dumps(each))

        def from_page(message: str | bytes) -> None:
            self.acknowledged.append(json.loads(message)["seq"])
            server.send(message)

        server.on_message(from_server)
        socket.on_message(from_page)

    @property
    def cursors(self) -> list[int]:
        """Where each connection began to read."""
        return [int(socket.url.rpartition("after=")[2]) for socket in self.sockets]


def through(page: Page, change: Callable[[Frame], list[Frame]]) -> Between:
    """Load the page again with something between it and the server."""
    between = Between(page, change)
    page.reload()
    return between


def test_events_that_come_twice_are_shown_once(browse: Opener, talk: Talk) -> None:
    page = live(browse())
    through(page, lambda frame: [frame, frame])
    live(page)

    talk.starts().says(*[("stdout", numbered(line, line)) for line in range(1, 101)])

    wait_for(lambda: text_of(page) == numbered(1, 100), seconds=60, what="each line once")
    expect(page.locator(".entry.message")).to_have_count(1)


def test_a_hole_makes_the_page_read_again_from_its_cursor(browse: Opener, talk: Talk) -> None:
    talk.starts()
    lost = []

    def lose_one(frame: Frame) -> list[Frame]:
        hit = [event for event in frame["events"] if event["text"] == "line 2\n"]
        if not hit or lost:
            return [frame]
        lost.append(hit[0]["seq"])
        return [frame | {"events": [event for event in frame["events"] if event not in hit]}]

    page = live(browse())
    between = through(page, lose_one)
    live(page)
    talk.says(*[("stdout", numbered(line, line)) for line in range(1, 4)])

    wait_for(lambda: text_of(page) == numbered(1, 3), seconds=60, what="all three lines")
    assert between.cursors[-1] == lost[0] - 1


def test_what_was_shown_is_acknowledged(browse: Opener, talk: Talk) -> None:
    page = live(browse())
    between = through(page, lambda frame: [frame])
    live(page)

    talk.starts().says(("stdout", "x\n"))

    talk.session.refresh_from_db()
    wait_for(lambda: text_of(page) == "x\n", seconds=60, what="the line")
    wait_for(lambda: talk.session.last_seq in between.acknowledged, seconds=60, what="its acknowledgement")


def test_back_online_the_page_reads_on_at_once(browse: Opener, talk: Talk) -> None:
    talk.starts()
    page = live(browse())
    between = through(page, lambda frame: [frame])
    live(page)
    between.hangs = True  # the socket is open and dead, as after a sleep
    talk.says(("stdout", "while it slept\n"))

    between.hangs = False
    page.evaluate("dispatchEvent(new Event('online'))")

    wait_for(lambda: text_of(page) == "while it slept\n", seconds=60, what="what was missed")


def test_without_a_login_the_page_says_so_and_stops_asking(browse: Opener, talk: Talk) -> None:
    page = live(browse())
    page.context.clear_cookies()
    page.evaluate("dispatchEvent(new Event('online'))")

    expect(page.locator("[data-part=connection]")).to_have_text("Log in again")
    expect(page.locator("[data-part=notice]")).to_contain_text("not logged in any more")
    expect(page.get_by_label("Message")).to_be_disabled()


def test_output_without_a_line_feed_stays_one_text(browse: Opener, talk: Talk) -> None:
    page = live(browse())
    chunk = "0123456789abcdef" * 2048

    talk.starts().says(*[("stdout", chunk)] * 64, ("stdout", "\nend\n"))

    wait_for(lambda: text_of(page).endswith("\nend\n"), seconds=60, what="the end")
    assert text_of(page) == chunk * 64 + "\nend\n"


def test_colours_go_on_after_an_interruption(browse: Opener, talk: Talk) -> None:
    talk.starts().says(
        ("stdout", "\x1b[32mgreen\n"), ("tool", "Bash", {"phase": "use", "id": "1"}), ("stdout", "still\n")
    )

    page = live(browse())

    expect(page.locator(".term-lines .ansi-fg-2")).to_have_text(["green\n", "still\n"])


def test_the_largest_event_arrives(browse: Opener, talk: Talk) -> None:
    text = "\x01" * (256 * 1024)  # as JSON six times as long
    talk.starts().says(("text", text))

    page = live(browse())

    expect(page.locator(".entry.text")).to_be_attached()
    assert page.locator(".entry.text .said").text_content() == text


def test_what_retention_removed_is_said_and_the_rest_is_shown(browse: Opener, talk: Talk) -> None:
    talk.starts().says(*[("stdout", numbered(line, line)) for line in range(1, 11)])
    session = talk.session
    first = session.events.get(text="line 7\n").seq
    session.events.filter(seq__lt=first).delete()
    AgentSession.objects.filter(pk=session.pk).update(pruned_seq=first - 1)

    page = browse()
    between = through(page, lambda frame: [frame])
    live(page)

    wait_for(lambda: text_of(page) == numbered(7, 10), seconds=60, what="the lines that are left")
    expect(page.locator(".removed")).to_have_text(f"Events 1 to {first - 1} were removed after their retention.")
    talk.says(("stdout", "line 11\n"))
    wait_for(lambda: text_of(page) == numbered(7, 11), seconds=60, what="a new line")
    assert between.cursors == [0]


def test_a_session_of_which_all_is_removed_says_so(browse: Opener, talk: Talk) -> None:
    last = talk.session.last_seq
    talk.session.events.all().delete()
    AgentSession.objects.filter(pk=talk.session.pk).update(pruned_seq=last)

    page = live(browse())

    expect(page.locator(".removed")).to_have_text(f"Events 1 to {last} were removed after their retention.")
    expect(page.get_by_text("Nothing was said yet.")).to_be_hidden()


def test_connections_that_bring_nothing_come_ever_more_rarely(browse: Opener, talk: Talk) -> None:
    page = live(browse())

    def close(socket: WebSocketRoute) -> None:
        socket.send(json.dumps({"type": "events", "events": [], "last_seq": 0, "removed": 0}))
        socket.close(code=1011)

    page.route_web_socket("**/ws/**", close)
    page.reload()

    expect(page.locator("[data-part=connection]")).to_have_text(re.compile(r"Reconnecting in [345] s"))


def test_too_many_pages_are_said_with_a_longer_pause(browse: Opener, talk: Talk) -> None:
    page = live(browse())
    words = "2 streams of yours are open, and more are not let in. Close some, then come again."
    page.route_web_socket("**/ws/**", lambda socket: socket.close(code=4429, reason=words))
    page.reload()

    expect(page.locator("[data-part=notice]")).to_have_text(words)
    expect(page.locator("[data-part=connection]")).to_have_text(re.compile(r"Reconnecting in [12]\d s"))
