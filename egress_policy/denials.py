"""What was refused: counted for each run and host, told in the session, and listed as asked for."""

import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence

from django.db import transaction

from egress_policy import access_requests
from egress_policy.models import EgressDenial
from egress_policy.reports import ToldDenial
from sessions.choices import EventKind
from sessions.events import event_log, notify
from sessions.events.event_log import NewEvent
from sessions.models import Run

PLACES = 200  # hosts that are told of one run by name; further ones are counted together, as OTHERS
OTHERS = "*"
REMEMBERED = 8  # ids: some proxies at a time may tell of the same place

Place = tuple[str, int, str]  # host, port, code


def store(told: Sequence[ToldDenial]) -> None:
    """Keep refusals, one run after the other. They may be told again: what is known is not counted twice."""
    by_run: dict[uuid.UUID, list[ToldDenial]] = defaultdict(list)
    for denial in told:
        by_run[denial.run].append(denial)
    runs = Run.objects.select_related("session").in_bulk(by_run)
    for run_id, denials in by_run.items():
        if run_id in runs:
            _store(runs[run_id], denials)


@transaction.atomic
def _store(run: Run, told: list[ToldDenial]) -> None:
    session = event_log.locked(run.session_id)
    rows = {(row.host, row.port, row.code): row for row in EgressDenial.objects.filter(run=run)}
    said: list[NewEvent] = []
    for place, denials in _by_place(rows, told).items():
        new = unknown(denials, rows[place].recent if place in rows else [])
        if not new:
            continue
        row = rows.setdefault(place, _row(run, place, new[0]))
        before = row.count
        _count(row, new)
        if worth_telling(before, row.count):
            said.append(_event(row))
        if row.code == "rule" and row.host != OTHERS:
            access_requests.asked(run, row.host, row.port, row.count - before, row.last_at)
    if said:
        event_log.append(session, said, run)
        notify.ring_on_commit(session.pk, notify.EVENTS)


def _by_place(known: Iterable[Place], told: list[ToldDenial]) -> dict[Place, list[ToldDenial]]:
    """Refusals by place. Beyond PLACES of one run, further hosts are one place."""
    places, found = set(known), defaultdict[Place, list[ToldDenial]](list)
    for denial in told:
        place = (denial.host, denial.port, denial.code)
        if place not in places and len(places) >= PLACES:
            place = (OTHERS, 0, denial.code)
        places.add(place)
        found[place].append(denial)
    return found


def unknown(told: Sequence[ToldDenial], recent: Sequence[str]) -> list[ToldDenial]:
    """Those that were not counted yet. Pure.

    A proxy tells in order, and begins again where it had no answer: what stands before something known is known.
    """
    last = max((place for place, denial in enumerate(told) if denial.id in recent), default=-1)
    return list(told[last + 1 :])


def worth_telling(before: int, after: int) -> bool:
    """Whether a count reached another power of ten, the first being 1. Pure."""
    return len(str(after)) > (len(str(before)) if before else 0)


def _row(run: Run, place: Place, first: ToldDenial) -> EgressDenial:
    host, port, code = place
    reason = "further hosts were refused, which are not told one by one" if host == OTHERS else first.reason
    return EgressDenial(run=run, host=host, port=port, code=code, reason=reason, first_at=first.at, last_at=first.at)


def _count(row: EgressDenial, new: Sequence[ToldDenial]) -> None:
    row.count += sum(denial.count for denial in new)
    row.last_at = max(row.last_at, *(denial.at for denial in new))
    row.recent = [*row.recent, new[-1].id][-REMEMBERED:]
    row.save()


def _event(row: EgressDenial) -> NewEvent:
    where = "other hosts" if row.host == OTHERS else f"{row.host}:{row.port}"
    times = "" if row.count == 1 else f", {row.count} times by now"
    words = f"The agent was refused {where}{times}: {row.reason}."
    if row.code == "rule" and row.host != OTHERS:
        words += " It is listed under “asked for”."
    data = {"host": row.host, "port": row.port, "code": row.code, "count": row.count}
    return NewEvent(EventKind.DENIED, words, data, row.last_at)
