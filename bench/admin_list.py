"""Admin list: the admin's page of sessions, from request to last byte, with 100,000 sessions in 500 groups (a hundredth
of them waits in the queue), a run of each and 5,000,000 events in PostgreSQL; 40 loads by one browser after 5 others.

The floor is one plain SQL statement for the page's rows: the newest 50 sessions with their groups' and profiles' names
and the beginning of their last events. Statements of a page are counted with 100 sessions as well: there must be as
many.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import requests

from bench.harness import Figure, Outcome, berth, django, median, ms, percentile
from testbed.stack import Stack

FEW, SESSIONS, GROUPS, EVENTS = 100, 100_000, 500, 50  # events of each session
LOADS, WARM_UP, TARGET = 40, 5, 0.300
PAGE = "/admin/agent_sessions/agentsession/"
COUNT = f"""
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
client = Client(SERVER_NAME="localhost")
client.force_login(User.objects.get(username="admin"))
client.get("{PAGE}")
with CaptureQueriesContext(connection) as seen:
    assert client.get("{PAGE}").status_code == 200
result = len(seen)
"""
TEMPLATE = """
from groups.models import AgentGroup, AgentProfile
from sessions.models import AgentSession, Run
from django.utils import timezone
group = AgentGroup.objects.create(slug="template", name="Template")
session = AgentSession.objects.create(group=group, profile=AgentProfile.objects.get(slug="workbench"), title="template")
now = timezone.now()
Run.objects.create(
    session=session, number=1, runtime="kubernetes", state="ended", verdict="idle", ended_at=now, removed_at=now
)
result = None
"""
# Copies of one row, with some columns of their own: whatever other columns there are keep their values.
COPY = "INSERT INTO {table} SELECT (jsonb_populate_record(t, {changes})).* FROM {table} t, generate_series({span}) i"
GROUP = "jsonb_build_object('id', md5('group' || i)::uuid, 'slug', 'bench-' || i, 'name', 'Bench ' || i)"
SESSION = f"""jsonb_build_object('id', md5('session' || i)::uuid, 'group_id', md5('group' || i % {GROUPS})::uuid,
    'title', 'Session number ' || i, 'reason', 'Closed after waiting long enough for a follow-up.',
    'last_seq', {EVENTS}, 'last_run', 1, 'updated_at', now() - (i * 7919 % 86400) * interval '1 second',
    'state', CASE WHEN i % 100 = 0 THEN 'queued' WHEN i % 33 = 0 THEN 'failed' ELSE 'idle' END,
    'queued_at', CASE WHEN i % 100 = 0 THEN now() - (i * 7919 % 86400) * interval '1 second' END)"""
RUN = "jsonb_build_object('id', md5('run' || i)::uuid, 'session_id', md5('session' || i)::uuid)"
EVENT = """INSERT INTO agent_sessions_event (session_id, seq, run_id, number, kind, text, data, at)
    SELECT md5('session' || i)::uuid, n, md5('run' || i)::uuid, n, 'stdout',
    'line ' || n || ': some eighty characters of what an agent says while it works on its task', '{{}}', now()
    FROM generate_series({span}) i, generate_series(1, {events}) n"""
INDEXES = b"SELECT indexname, indexdef FROM pg_indexes WHERE tablename = %s AND indexname NOT LIKE '%%_pkey'"
CONSTRAINTS = b"SELECT conname FROM pg_constraint WHERE conrelid = %s::regclass AND contype IN ('f', 'u')"
FLOOR = """SELECT s.*, g.name, p.slug, e.kind, left(e.text, 160) FROM
    (SELECT * FROM agent_sessions_agentsession ORDER BY updated_at DESC, id DESC LIMIT 50) s
    JOIN groups_agentgroup g ON g.id = s.group_id JOIN groups_agentprofile p ON p.id = s.profile_id
    LEFT JOIN agent_sessions_event e ON e.session_id = s.id AND e.seq = s.last_seq"""


def run() -> Outcome:
    """Measure; two rows."""
    with berth(["web"]) as stack, psycopg.connect(stack.env["DATABASE_URL"], autocommit=True) as connection:
        django(stack, TEMPLATE)
        _fill(connection, 1, FEW)
        few = int(django(stack, COUNT))
        with _without_indexes(connection):
            _fill(connection, FEW + 1, SESSIONS)
        connection.execute(b"VACUUM ANALYZE")
        many = int(django(stack, COUNT))
        events = connection.execute("SELECT count(*) FROM agent_sessions_event").fetchone()
        ours, floor = _loads(stack), _timed(lambda: connection.execute(FLOOR.encode()).fetchall())
    slow = percentile(ours, 0.95)
    spreads = [f"p50 {ms(median(s))}, p95 {ms(percentile(s, 0.95))} of {LOADS}" for s in (ours, floor)]
    words = f"{many} statements, {few} with {FEW} sessions"
    return Outcome(
        [
            Figure(
                "admin's list of 100,000 sessions",
                spreads[0],
                spreads[1],
                f"p95 {ms(slow)}",
                f"p95 ≤ {ms(TARGET)}",
                slow <= TARGET,
            ),
            Figure("its statements", str(many), str(few), words, "as many", many == few),
        ],
        [f"There were {events[0] if events else 0:,} events."],
    )


def _fill(connection: psycopg.Connection[Any], first: int, last: int) -> None:
    """Add the sessions `first` to `last`, with all that belongs to them."""
    span = f"{first}, {last}"
    if first == 1:
        _copy(connection, "groups_agentgroup", GROUP, f"0, {GROUPS - 1}", "slug = 'template'")
    _copy(connection, "agent_sessions_agentsession", SESSION, span, "title = 'template'")
    template = "session_id = (SELECT id FROM agent_sessions_agentsession WHERE title = 'template')"
    _copy(connection, "agent_sessions_run", RUN, span, template)
    connection.execute(EVENT.format(span=span, events=EVENTS).encode())


@contextmanager
def _without_indexes(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Let the events' indexes be built at once: minutes less. Foreign keys, which no page uses, stay away."""
    table = "agent_sessions_event"
    indexes = connection.execute(INDEXES, [table]).fetchall()
    for (name,) in connection.execute(CONSTRAINTS, [table]).fetchall():
        connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}".encode())
    for name, _ in indexes:
        connection.execute(f"DROP INDEX IF EXISTS {name}".encode())
    yield
    for _, definition in indexes:
        connection.execute(definition.encode())


def _copy(connection: psycopg.Connection[Any], table: str, changes: str, span: str, which: str) -> None:
    connection.execute(f"{COPY.format(table=table, changes=changes, span=span)} WHERE t.{which}".encode())


def _loads(stack: Stack) -> list[float]:
    """Seconds that each load took."""
    browser = requests.Session()
    browser.headers["Cookie"] = stack.cookies()

    def load() -> None:
        answer = browser.get(f"{stack.base}{PAGE}", timeout=60)
        if "Session number" not in answer.text:
            raise RuntimeError(f"{answer.status_code}: no sessions on the page")

    return _timed(load)


def _timed(work: Callable[[], Any]) -> list[float]:
    taken = []
    for _ in range(WARM_UP + LOADS):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return taken[WARM_UP:]
