"""The admin: who sees what, what can be changed, and what a page costs."""

from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from groups.choices import Role
from groups.models import AgentGroup, AgentProfile, ApiToken, Membership
from sessions.courier_api import ingest
from sessions.lifecycle import intake
from sessions.models import AgentSession, Event, Message, Run

pytestmark = pytest.mark.django_db
OURS = [AgentGroup, Membership, AgentProfile, ApiToken, AgentSession, Run, Message, Event]


@pytest.fixture
def group() -> AgentGroup:
    return AgentGroup.objects.create(slug="harbour", name="Harbour")


@pytest.fixture
def profile() -> AgentProfile:
    return AgentProfile.objects.create(slug="workbench", command=["true"])


def person(name: str, group: AgentGroup | None = None, role: str = Role.MEMBER, **more: Any) -> User:
    user = User.objects.create_user(name, is_staff=True, **more)
    if group:
        Membership.objects.create(group=group, user=user, role=role)
    return user


def client(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def operator() -> Client:
    return client(person("operator", is_superuser=True))


@pytest.fixture
def session(group: AgentGroup, profile: AgentProfile) -> AgentSession:
    return intake.open_session(group=group, profile=profile, text="Hello", sender=person("sender"), title="Moorings")


def run_of(session: AgentSession) -> Run:
    run = Run.objects.create(session=session, number=1, runtime="local")
    session.last_run = 1
    session.save()
    return run


def address(model: Any, page: str, *args: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


@pytest.mark.parametrize("model", OURS)
def test_every_model_has_its_list_and_page(model: Any, operator: Client, session: AgentSession) -> None:
    run = run_of(session)
    ApiToken.issue(User.objects.get(username="operator"), "laptop")
    Event.objects.create(session=session, seq=100, run=run, kind="stdout", text="x")
    Membership.objects.create(group=session.group, user=person("member"))
    row = model.objects.first()

    assert operator.get(address(model, "changelist")).status_code == 200
    assert operator.get(address(model, "changelist"), {"q": str(session.pk)}).status_code == 200
    assert operator.get(address(model, "changelist"), {"q": "pier"}).status_code == 200
    assert operator.get(address(model, "change", row.pk)).status_code == 200


@pytest.mark.parametrize("model", [AgentGroup, AgentProfile, Membership, AgentSession, User])
def test_what_people_make_has_an_add_page(
    model: Any, operator: Client, profile: AgentProfile, group: AgentGroup
) -> None:
    assert operator.get(address(model, "add")).status_code == 200


@pytest.mark.parametrize("model", [Run, Message, Event])
def test_what_berth_writes_is_only_read(model: Any, operator: Client, session: AgentSession) -> None:
    run_of(session)
    row = model.objects.first()
    before = model.objects.values().get(pk=row.pk)

    assert operator.get(address(model, "add")).status_code == 403
    assert operator.post(address(model, "change", row.pk), {"text": "x", "state": "ended"}).status_code == 405
    assert operator.post(address(model, "delete", row.pk), {"post": "yes"}).status_code == 403
    assert model.objects.values().get(pk=row.pk) == before


def test_a_token_can_be_revoked_and_not_seen(operator: Client) -> None:
    token = ApiToken.issue(User.objects.get(username="operator"), "laptop")
    row = ApiToken.objects.get()

    page = operator.get(address(ApiToken, "change", row.pk)).content.decode()
    assert token not in page
    assert row.digest not in page
    operator.post(address(ApiToken, "delete", row.pk), {"post": "yes"})
    assert not ApiToken.objects.exists()


def test_tokens_of_others_are_not_there() -> None:
    ApiToken.issue(person("other"), "secret laptop")
    row = ApiToken.objects.get()
    me = client(person("me"))

    assert "secret laptop" not in me.get(address(ApiToken, "changelist")).content.decode()
    assert me.get(address(ApiToken, "change", row.pk)).status_code == 404
    assert me.post(address(ApiToken, "delete", row.pk), {"post": "yes"}).status_code == 404
    assert ApiToken.objects.exists()


@pytest.mark.parametrize("model", [AgentGroup, AgentSession, Run, Message, Event])
def test_somebody_from_outside_sees_nothing(model: Any, session: AgentSession) -> None:
    run_of(session)
    outsider = client(person("outsider", AgentGroup.objects.create(slug="other", name="Other")))
    row = model.objects.exclude(pk=AgentGroup.objects.get(slug="other").pk).first()

    assert "Moorings" not in outsider.get(address(model, "changelist")).content.decode()
    found = outsider.get(address(model, "changelist"), {"q": str(session.pk)}).context["cl"].result_list
    assert list(found) == []
    assert outsider.get(address(model, "change", row.pk)).status_code == 404


@pytest.mark.parametrize("model", [AgentGroup, AgentSession, Run, Message, Event])
def test_a_member_sees_the_groups_rows(model: Any, session: AgentSession) -> None:
    run_of(session)
    member = client(person("member", session.group, Role.VIEWER))

    assert member.get(address(model, "change", model.objects.first().pk)).status_code == 200


def test_a_member_of_staff_without_permission_changes_no_group(session: AgentSession) -> None:
    member = client(person("member", session.group, Role.OWNER))

    assert member.post(address(AgentGroup, "change", session.group.pk), {"max_runs": 99}).status_code == 403
    assert member.get(address(AgentGroup, "add")).status_code == 403
    assert member.get(address(AgentProfile, "changelist")).status_code == 403


def test_who_is_no_staff_does_not_get_in(session: AgentSession) -> None:
    visitor = User.objects.create_user("visitor")
    Membership.objects.create(group=session.group, user=visitor, role=Role.OWNER)

    assert client(visitor).get(address(AgentSession, "change", session.pk)).status_code == 302


def test_counts_of_a_group_are_of_all_its_members(session: AgentSession) -> None:
    for name in ("one", "two", "three"):
        person(name, session.group)
    rows = client(User.objects.get(username="one")).get(address(AgentGroup, "changelist")).context["cl"].result_list

    assert [(row.members_count, row.session_count) for row in rows] == [(3, 1)]


# --- starting a session ---------------------------------------------------------------------------------------------


def test_a_session_starts_with_its_first_message(operator: Client, group: AgentGroup, profile: AgentProfile) -> None:
    wanted = {"group": group.pk, "profile": profile.pk, "text": "Check the *moorings*", "title": "Moorings"}
    answer = operator.post(address(AgentSession, "add"), wanted)

    session = AgentSession.objects.get()
    assert answer.status_code == 302
    assert answer["Location"] == address(AgentSession, "change", session.pk)
    assert session.title == "Moorings"
    assert [message.text for message in session.messages.all()] == ["Check the *moorings*"]
    assert session.state == "queued"
    assert session.created_by == User.objects.get(username="operator")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"text": " "}, "text"),
        ({"text": "x" * 300 * 1024}, "text"),
        ({"group": ""}, "group"),
        ({"profile": ""}, "profile"),
    ],
)
def test_what_is_refused_is_said_at_its_field(
    change: dict[str, str], field: str, operator: Client, group: AgentGroup, profile: AgentProfile
) -> None:
    wanted = {"group": group.pk, "profile": profile.pk, "text": "Hello", "title": ""} | change
    answer = operator.post(address(AgentSession, "add"), wanted)

    assert answer.status_code == 200
    assert list(answer.context["adminform"].form.errors) == [field]
    assert not AgentSession.objects.exists()


def test_only_ones_own_groups_and_active_profiles_are_offered(group: AgentGroup, profile: AgentProfile) -> None:
    AgentGroup.objects.create(slug="other", name="Other")
    AgentProfile.objects.create(slug="old", command=["true"], active=False)
    form = client(person("member", group)).get(address(AgentSession, "add")).context["adminform"].form

    assert list(form.fields["group"].queryset) == [group]
    assert list(form.fields["profile"].queryset) == [profile]


def test_a_viewer_starts_nothing(group: AgentGroup, profile: AgentProfile) -> None:
    viewer = client(person("viewer", group, Role.VIEWER))

    assert viewer.get(address(AgentSession, "add")).status_code == 403
    wanted = {"group": group.pk, "profile": profile.pk, "text": "Hello"}
    assert viewer.post(address(AgentSession, "add"), wanted).status_code == 403


def test_one_cannot_start_a_session_in_a_group_that_one_only_reads(group: AgentGroup, profile: AgentProfile) -> None:
    user = person("mixed", group, Role.VIEWER)
    Membership.objects.create(group=AgentGroup.objects.create(slug="own", name="Own"), user=user, role=Role.OWNER)
    wanted = {"group": group.pk, "profile": profile.pk, "text": "Hello", "title": ""}
    answer = client(user).post(address(AgentSession, "add"), wanted)

    assert list(answer.context["adminform"].form.errors) == ["group"]


def test_title_and_priority_are_edited_and_nothing_else(operator: Client, session: AgentSession) -> None:
    wanted = {"title": "New title", "priority": 5, "state": "failed", "reason": "x", "last_seq": 99}
    answer = operator.post(address(AgentSession, "edit", session.pk), wanted)

    before = session.last_seq
    session.refresh_from_db()
    assert answer["Location"] == address(AgentSession, "change", session.pk)
    assert (session.title, session.priority, session.state, session.last_seq) == ("New title", 5, "queued", before)


def test_a_viewer_edits_nothing_and_an_outsider_finds_nothing(session: AgentSession) -> None:
    viewer, outsider = person("viewer", session.group, Role.VIEWER), person("outsider")

    assert client(viewer).post(address(AgentSession, "edit", session.pk), {"title": "x"}).status_code == 403
    assert client(outsider).get(address(AgentSession, "edit", session.pk)).status_code == 404
    session.refresh_from_db()
    assert session.title == "Moorings"


# --- the live page's addresses --------------------------------------------------------------------------------------


def test_a_message_is_accepted_and_numbered(operator: Client, session: AgentSession) -> None:
    answer = operator.post(address(AgentSession, "message", session.pk), {"text": "More", "key": "k"})
    again = operator.post(address(AgentSession, "message", session.pk), {"text": "More", "key": "k"})

    assert (answer.status_code, answer.json()) == (202, {"number": 2})
    assert again.json() == {"number": 2}
    assert session.messages.count() == 2


def test_an_empty_message_is_refused_in_words(operator: Client, session: AgentSession) -> None:
    answer = operator.post(address(AgentSession, "message", session.pk), {"text": "  "})

    assert answer.status_code == 422
    assert answer.json() == {"error": "Write a message first.", "field": "text"}


@pytest.mark.parametrize("action", ["message", "stop", "close"])
def test_actions_are_for_members_and_owners(action: str, session: AgentSession) -> None:
    page = address(AgentSession, action, session.pk)
    codes = {
        role: client(person(role, session.group, role)).post(page, {"text": "x"}).status_code for role in Role.values
    }

    assert codes == {"viewer": 403, "member": 202, "owner": 202}
    assert client(person("outsider")).post(page, {"text": "x"}).status_code == 404
    assert Client().post(page, {"text": "x"}).status_code == 302


@pytest.mark.parametrize("action", ["message", "stop", "close"])
def test_actions_need_post_and_a_csrf_token(action: str, session: AgentSession) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(person("member", session.group))
    page = address(AgentSession, action, session.pk)

    assert strict.get(page).status_code == 405
    assert strict.post(page, {"text": "x"}).status_code == 403
    assert session.messages.count() == 1


def test_stop_cancels_what_waits(operator: Client, session: AgentSession) -> None:
    operator.post(address(AgentSession, "stop", session.pk))

    assert session.messages.get().state == "cancelled"


def test_the_live_page_says_state_and_reason_without_javascript(operator: Client, session: AgentSession) -> None:
    page = operator.get(address(AgentSession, "change", session.pk)).content.decode()

    assert "Moorings" in page
    assert "Queued" in page
    assert 'data-part="reason" >' in page
    assert f'data-stream="/ws/sessions/{session.pk}/"' in page
    assert operator.post(address(AgentSession, "change", session.pk), {"title": "x"}).status_code == 405


def test_the_live_page_has_no_script_or_style_of_its_own_inline(operator: Client, session: AgentSession) -> None:
    page = operator.get(address(AgentSession, "change", session.pk)).content.decode()
    own = page[page.index('id="live"') : page.index("</main>")]

    assert "<script" not in own
    assert " style=" not in own
    assert " onclick" not in own


# --- what pages cost ------------------------------------------------------------------------------------------------


def queries(operator: Client, page: str) -> list[str]:
    operator.get(page)  # warms what is read once, such as content types
    with CaptureQueriesContext(
        connection,
    ) as captured:
        assert operator.get(page).status_code == 200
    return [query["sql"] for query in captured]


@pytest.mark.parametrize("model", [AgentGroup, Membership, AgentSession, Run, Message, Event])
def test_a_list_costs_the_same_however_long_it_is(
    model: Any, operator: Client, group: AgentGroup, profile: AgentProfile
) -> None:
    def grow(count: int) -> None:
        for _ in range(count):
            mark = str(User.objects.count())
            sender = person(f"sender-{mark}", AgentGroup.objects.create(slug=f"g-{mark}", name=f"G {mark}"))
            session = intake.open_session(group=group, profile=profile, text="Hello", sender=sender)
            run = run_of(session)
            Event.objects.create(session=session, seq=100, run=run, kind="stdout", text="x")

    grow(2)
    few = queries(operator, address(model, "changelist"))
    grow(10)

    assert len(queries(operator, address(model, "changelist"))) == len(few)


def test_the_live_page_costs_the_same_however_long_the_session(operator: Client, session: AgentSession) -> None:
    page = address(AgentSession, "change", session.pk)
    few = queries(operator, page)
    ingest.record(session.pk, [("state", f"line {number}", {}) for number in range(1000)])

    assert len(queries(operator, page)) == len(few)
    assert len(few) <= 20


def test_the_list_of_events_counts_nothing(operator: Client, session: AgentSession) -> None:
    sql = queries(operator, address(Event, "changelist"))

    assert not [query for query in sql if "count(" in query.lower() and Event._meta.db_table in query]
    assert [query for query in sql if f'ORDER BY "{Event._meta.db_table}"."id" DESC' in query]


def test_our_models_are_all_in_the_admin() -> None:
    assert all(admin.site.is_registered(model) for model in OURS)


def test_the_list_of_events_reads_the_beginnings_of_what_is_long(operator: Client, session: AgentSession) -> None:
    ingest.record(session.pk, [("tool", "begin " + "x" * 200_000, {"output": "y" * 200_000})] * 3)
    with CaptureQueriesContext(connection) as queries:
        page = operator.get(reverse("admin:agent_sessions_event_changelist"))
    assert page.status_code == 200 and "begin xxx" in page.content.decode() and len(page.content) < 400_000
    reads = [query["sql"] for query in queries if 'FROM "agent_sessions_event"' in query["sql"]]
    assert reads and not any('"agent_sessions_event"."data"' in sql for sql in reads)
    event = session.events.order_by("-seq")[0]
    one = operator.get(reverse("admin:agent_sessions_event_change", args=[event.pk]))
    assert one.status_code == 200 and "yyyy" in one.content.decode()
