"""The live page in a browser: what agents and people say is on it, once, in order, whatever happens between."""

import pytest
from playwright.sync_api import Page, expect

from groups.models import Membership
from runtimes.base import Cause, Observed, Phase
from sessions.lifecycle import transitions
from sessions.models import AgentSession, Message, Run
from testbed.waiting import wait_for
from tests.browser.conftest import Opener, Talk

pytestmark = pytest.mark.browser
TRANSCRIPT = "[data-part=transcript]"


def live(page: Page) -> Page:
    """The page, once its connection stands."""
    expect(page.locator("[data-part=connection]")).to_have_attribute("data-state", "live")
    return page


def text_of(page: Page) -> str:
    """All raw output on the page."""
    return "".join(page.locator(".term-lines").evaluate_all("blocks => blocks.map(block => block.textContent)"))


def numbered(first: int, last: int) -> str:
    return "".join(f"line {number}\n" for number in range(first, last + 1))


def test_a_message_sent_from_the_page_appears_and_is_stored(browse: Opener, talk: Talk) -> None:
    page = live(browse())

    page.get_by_label("Message").fill("What about *pier 4*?")
    page.keyboard.press("Enter")

    expect(page.locator(".entry.message")).to_have_count(2)
    expect(page.locator(".entry.message").last.locator("em")).to_have_text("pier 4")
    expect(page.get_by_label("Message")).to_have_value("")
    assert Message.objects.get(session=talk.session, number=2).text == "What about *pier 4*?"


def test_shift_enter_starts_a_line_and_ctrl_enter_sends(browse: Opener, talk: Talk) -> None:
    page = live(browse())
    page.get_by_label("Message").click()

    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Control+Enter")

    expect(page.locator(".entry.message")).to_have_count(2)
    assert Message.objects.get(session=talk.session, number=2).text == "one\ntwo"


def test_a_message_that_could_not_be_sent_keeps_its_draft_and_is_sent_once(browse: Opener, talk: Talk) -> None:
    page = live(browse())
    page.route("**/message/", lambda route: (route.fetch(), route.abort())[1])  # the answer is lost on its way
    page.get_by_label("Message").fill("only once")
    page.keyboard.press("Enter")
    expect(page.locator("#message-error")).to_contain_text("can't be reached")
    expect(page.get_by_label("Message")).to_have_value("only once")

    page.unroute("**/message/")
    page.get_by_role("button", name="Send").click()

    expect(page.locator("#message-error")).to_be_empty()
    expect(page.get_by_label("Message")).to_have_value("")
    assert Message.objects.filter(session=talk.session, text="only once").count() == 1


def test_a_refused_message_says_why_and_stays(browse: Opener, talk: Talk) -> None:
    page = live(browse())

    page.get_by_label("Message").fill("x" * 300 * 1024)
    page.keyboard.press("Enter")

    expect(page.locator("#message-error")).to_contain_text("at most 256 KiB")
    assert len(page.get_by_label("Message").input_value()) == 300 * 1024


def test_markdown_of_a_result_is_rendered_and_its_scripts_are_not_run(browse: Opener, talk: Talk) -> None:
    hostile = "<script>window.hit = 1</script><img src=x onerror='window.hit = 2'> [x](javascript:window.hit=3)"
    talk.starts().says(
        ("text", hostile),
        ("result", f"## Report\n\n- **ready** {hostile}"),
        ("stdout", f"{hostile}\n"),
        ("tool", hostile, {"phase": "use", "id": "1", "input": {"command": hostile}}),
        ("error", hostile),
        ("task", hostile, {"x": hostile}),
        ("gap", hostile, {"events": hostile, "bytes": 1}),
        ("session", "", {"id": hostile}),
    )

    page = live(browse())

    expect(page.locator(".entry.result h2")).to_have_text("Report")
    expect(page.locator(".entry.result strong")).to_have_text("ready")
    expect(page.locator(".entry.gap")).to_be_visible()
    assert page.locator(f"{TRANSCRIPT} script, {TRANSCRIPT} img").count() == 0
    assert page.evaluate("window.hit") is None


def test_parts_of_an_answer_become_its_result(browse: Opener, talk: Talk) -> None:
    page = live(browse())
    talk.starts().says(("text", "All moor"), ("text", "ings\nhold"))
    expect(page.locator(".entry.text .said")).to_have_text("All moorings\nhold")

    talk.says(("usage", "", {"output_tokens": 3}), ("text", "."), ("result", "All moorings\n\nhold."))

    expect(page.locator(".entry.result .said p")).to_have_text(["All moorings", "hold."])
    expect(page.locator(".entry.text")).to_have_count(0)


def test_what_was_written_but_is_not_in_the_result_stays(browse: Opener, talk: Talk) -> None:
    talk.starts().says(("text", "I look at pier 4 first."), ("stdout", "x\n"), ("text", "Done"), ("result", "Done."))

    page = live(browse())

    expect(page.locator(".entry.result")).to_be_visible()
    expect(page.locator(".entry.text .said")).to_have_text(["I look at pier 4 first."])


def test_colours_of_raw_output_are_shown_and_other_sequences_are_dropped(browse: Opener, talk: Talk) -> None:
    talk.starts().says(
        ("stdout", "\x1b[1;31mred \x1b[38;5;208morange\x1b[0m plain \x1b[3"),
        ("stdout", "2mgreen\x1b[0m \x1b]0;title\x07\x1b[2J\x1b[38;2;1;2;3mtrue\x1b[7m inverse\x1b[0m\n"),
        ("stdout", "10%\r50%\r"),
        ("stdout", "100%\r\nend\n"),
        ("stderr", "careful\n"),
    )

    page = live(browse())

    expect(page.locator(".term-stderr")).to_have_text("careful\n")
    assert text_of(page) == "red orange plain green true inverse\n100%\nend\ncareful\n"
    expect(page.locator(".term-lines .ansi-fg-1.ansi-bold")).to_have_text("red ")
    expect(page.locator(".term-lines .ansi-fg-2")).to_have_text("green")
    expect(page.get_by_text("orange", exact=True)).to_have_css("color", "rgb(255, 135, 0)")
    expect(page.get_by_text("true", exact=True)).to_have_css("color", "rgb(1, 2, 3)")
    expect(page.get_by_text(" inverse", exact=True)).to_have_css("background-color", "rgb(1, 2, 3)")


def test_a_tool_is_a_line_that_opens(browse: Opener, talk: Talk) -> None:
    talk.starts().says(
        ("tool", "Bash", {"phase": "use", "id": "a", "input": {"command": "ls -la"}}),
        ("tool", "Read", {"phase": "use", "id": "b", "input": {"path": "x"}}),
        ("tool", "Bash", {"phase": "result", "id": "a", "output": "total 0"}),
        ("tool", "Read", {"phase": "result", "id": "b", "output": "no such file", "is_error": True}),
    )
    page = live(browse())

    bash = page.locator(".entry.tool").first
    expect(bash.locator(".preview")).to_have_text("ls -la")
    expect(bash.locator(".outcome")).to_have_text("done")
    expect(page.locator(".entry.tool").nth(1).locator(".outcome")).to_have_text("failed")
    expect(bash.get_by_text("total 0")).to_be_hidden()
    bash.locator("summary").click()

    expect(bash.get_by_text("total 0")).to_be_visible()


def test_200_000_lines_are_all_on_the_page_and_it_still_works(browse: Opener, talk: Talk) -> None:
    page = live(browse())
    talk.starts()
    lines = 200_000
    for first in range(1, lines, 20_000):
        talk.says(*[("stdout", numbered(start, start + 49)) for start in range(first, first + 20_000, 50)])

    last = page.locator(".term-lines").last
    wait_for(lambda: f"line {lines}\n" in (last.text_content() or ""), seconds=120, what="the last line")

    assert text_of(page) == numbered(1, lines)
    page.get_by_label("Message").fill("still there?")
    page.keyboard.press("Enter")
    expect(page.locator(".entry.message")).to_have_count(2)


def test_a_reload_shows_the_same_again_and_goes_on(browse: Opener, talk: Talk) -> None:
    talk.starts().says(("stdout", numbered(1, 100)))
    page = live(browse())
    wait_for(lambda: text_of(page) == numbered(1, 100), seconds=60, what="the first lines")

    page.reload()
    live(page)
    talk.says(("stdout", numbered(101, 200)))

    wait_for(lambda: text_of(page) == numbered(1, 200), seconds=60, what="all lines, once")


def test_a_restarted_server_leaves_nothing_missing_or_twice(browse: Opener, talk: Talk) -> None:
    talk.starts().says(("stdout", numbered(1, 100)))
    page = live(browse())
    wait_for(lambda: text_of(page) == numbered(1, 100), seconds=60, what="the first lines")
    connection = page.locator("[data-part=connection]")

    talk.server.stop()
    expect(connection).to_have_attribute("data-state", "waiting")
    expect(connection).to_contain_text("Reconnecting")
    talk.says(*[("stdout", numbered(line, line)) for line in range(101, 1201)])
    talk.server.start()

    wait_for(lambda: text_of(page) == numbered(1, 1200), seconds=60, what="all lines, once")
    expect(connection).to_have_text("Live")


def test_two_browsers_show_the_same(browse: Opener, talk: Talk) -> None:
    one, two = live(browse("owner")), live(browse("viewer"))

    talk.starts().says(("stdout", numbered(1, 300)), ("result", "Done."))
    one.get_by_label("Message").fill("thanks")
    one.keyboard.press("Enter")

    for page in (one, two):
        expect(page.locator(".entry.message")).to_have_count(2)
        expect(page.locator(".entry.result .said")).to_have_text("Done.\n")
        assert text_of(page) == numbered(1, 300)
    shown = "blocks => blocks.map(block => [block.dataset.seq, block.dataset.kind])"
    everything = f"{TRANSCRIPT} > *"
    assert one.locator(everything).evaluate_all(shown) == two.locator(everything).evaluate_all(shown)


def test_the_header_follows_the_state_and_says_why(browse: Opener, talk: Talk) -> None:
    page = live(browse())
    expect(page.locator("[data-part=state]")).to_have_text("Queued")
    expect(page.locator("[data-part=reason]")).not_to_be_empty()

    talk.starts()
    expect(page.locator("[data-part=state]")).to_have_text("Working")
    expect(page.locator("[data-part=run]")).to_have_text("Run 1")
    talk.says(("turn", "", {"state": "idle"}))

    expect(page.locator("[data-part=state]")).to_have_text("Waiting")
    expect(page.locator("[data-part=reason]")).to_contain_text("waits for a follow-up")


def test_the_header_gives_the_verdict_of_a_run_in_words(browse: Opener, talk: Talk) -> None:
    talk.starts().says(("stdout", "x\n"))
    page = live(browse())
    assert talk.run

    transitions.end(talk.run, Observed(Phase.FINISHED, cause=Cause.OOM, exit_code=137))

    expect(page.locator("[data-part=state]")).to_have_text("Retrying")
    expect(page.locator("[data-part=run]")).to_have_text("Run 1: out of memory")
    expect(page.locator("[data-part=reason]")).to_contain_text("memory")
    expect(page.locator(".entry.state").last).to_contain_text("memory")


def test_stop_asks_first(browse: Opener, talk: Talk) -> None:
    talk.starts()
    page = live(browse())
    stop = page.get_by_role("button", name="Stop", exact=True)

    stop.click()
    page.get_by_role("button", name="Keep running").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert Run.objects.get(session=talk.session).intent == ""
    stop.click()
    page.get_by_role("dialog").get_by_role("button", name="Stop").click()

    expect(page.locator("[data-part=state]")).to_have_text("Ending")
    assert Run.objects.get(session=talk.session).intent == "stop"


def test_close_ends_gracefully(browse: Opener, talk: Talk) -> None:
    talk.starts()
    page = live(browse())

    page.get_by_role("button", name="Close").click()

    expect(page.locator("[data-part=state]")).to_have_text("Ending")
    expect(page.get_by_role("button", name="Close")).to_be_disabled()
    assert Run.objects.get(session=talk.session).intent == "close"


def at_end(page: Page) -> bool:
    return bool(
        page.locator("[data-part=scroller]").evaluate("s => s.scrollHeight - s.scrollTop - s.clientHeight < 24")
    )


def test_scrolling_up_pauses_and_jump_goes_on(browse: Opener, talk: Talk) -> None:
    talk.starts().says(("stdout", numbered(1, 3000)))
    page = live(browse())
    wait_for(lambda: text_of(page) == numbered(1, 3000) and at_end(page), seconds=60, what="the page at its end")
    follow, jump = page.locator("[data-part=follow]"), page.locator("[data-part=jump]")

    page.locator("[data-part=scroller]").hover()
    page.mouse.wheel(0, -2000)
    expect(follow).to_have_attribute("aria-pressed", "false")
    talk.says(("stdout", numbered(3001, 3500)), ("result", "Done."))
    expect(jump).to_contain_text("Jump to newest (2 new)")
    assert not at_end(page)
    jump.click()

    expect(jump).to_be_hidden()
    wait_for(lambda: at_end(page), seconds=60, what="the end")
    talk.says(("stdout", numbered(1, 200)))
    expect(page.locator(".entry.output")).to_have_count(2)
    wait_for(lambda: at_end(page), seconds=60, what="the end again")


def test_the_button_pauses_until_it_is_pressed_again(browse: Opener, talk: Talk) -> None:
    talk.starts()
    page = live(browse())
    page.locator("[data-part=follow]").click()

    talk.says(("stdout", numbered(1, 500)))
    expect(page.locator("[data-part=jump]")).to_contain_text("1 new")
    assert not at_end(page)
    page.locator("[data-part=follow]").click()

    wait_for(lambda: at_end(page), seconds=60, what="the end")


def test_a_viewer_reads_and_can_do_nothing_else(browse: Opener, talk: Talk) -> None:
    talk.starts().says(("result", "Only to be read"))

    page = live(browse("viewer"))

    expect(page.locator(".entry.result")).to_contain_text("Only to be read")
    expect(page.get_by_label("Message")).to_be_disabled()
    reason = page.get_by_label("Message").get_attribute("placeholder") or ""
    assert "Only members and owners" in reason
    for name in ("Stop", "Close"):
        expect(page.get_by_role("button", name=name, exact=True)).to_be_disabled()


def test_somebody_from_outside_gets_404(browse: Opener, talk: Talk) -> None:
    page = browse("outsider")

    assert "Not Found" in page.content()
    assert page.locator("#live").count() == 0


def test_who_loses_the_role_is_told_and_sees_nothing_new(browse: Opener, talk: Talk) -> None:
    talk.starts()
    page = live(browse("viewer"))

    Membership.objects.filter(user=talk.people["viewer"]).delete()
    talk.says(("result", "a secret"))

    expect(page.locator("[data-part=connection]")).to_have_text("Not visible any more")
    expect(page.locator("[data-part=notice]")).to_contain_text("not visible to you any more")
    expect(page.locator(".entry.result")).to_have_count(0)


def test_a_title_that_is_code_is_text(browse: Opener, talk: Talk) -> None:
    AgentSession.objects.filter(pk=talk.session.pk).update(title="<img src=x onerror='window.hit = 1'>")

    page = live(browse())

    expect(page.get_by_role("heading", level=1).first).to_contain_text("<img")
    assert page.evaluate("window.hit") is None


def test_the_page_itself_makes_no_errors(browse: Opener, talk: Talk) -> None:
    talk.starts().says(("stdout", "x\n"), ("result", "y"), ("exit", "", {"code": 0}))

    page = live(browse())

    expect(page.locator(".entry.result")).to_be_visible()
    assert page.problems == []  # type: ignore[attr-defined]


def test_a_message_says_how_far_it_came_and_can_be_taken_back(browse: Opener, talk: Talk) -> None:
    talk.starts()
    page = live(browse())
    first = page.locator(".entry.message .delivery").first
    talk.says(("delivered", "", {"number": 1}), ("turn", "", {"state": "working"}))
    expect(first).to_have_text("delivered")
    talk.says(("turn", "", {"state": "idle"}))
    expect(first).to_have_text("answered")

    page.get_by_label("Message").fill("never mind")
    page.keyboard.press("Enter")
    second = page.locator(".entry.message .delivery").last
    expect(second).to_contain_text("waits")
    second.get_by_role("button", name="Take back").click()

    expect(second).to_have_text("cancelled")
    assert Message.objects.get(session=talk.session, number=2).state == "cancelled"


def test_what_failed_for_good_is_retried_from_the_page(browse: Opener, talk: Talk) -> None:
    talk.starts()
    page = live(browse())
    expect(page.locator("[data-part=retry]")).to_be_hidden()
    talk.says(("delivered", "", {"number": 1}))
    AgentSession.objects.filter(pk=talk.session.pk).update(attempts=transitions.max_attempts())
    transitions.end(Run.objects.get(session=talk.session), Observed(Phase.FINISHED, Cause.AGENT_ERROR, exit_code=3))
    delivery = page.locator(".entry.message .delivery").first
    expect(delivery).to_contain_text("failed")
    expect(delivery.get_by_role("button", name="Discard")).to_be_visible()

    page.locator("[data-part=retry]").click()

    expect(delivery).to_contain_text("waits")
    expect(page.locator("[data-part=state]")).to_have_text("Queued")
    expect(page.locator("[data-part=retry]")).to_be_hidden()
