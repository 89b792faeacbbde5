"""What was refused: counted for each run and host, reported in the session, and listed as asked for."""

import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence

from django.db import transaction

from egress_policy import access_requests
from egress_policy.models import EgressDenial
from egress_policy.reports import ReportedDenial
from sessions.choices import EventKind
from sessions.events import event_log, notify
from sessions.events.event_log import NewEvent
from sessions.models import Run

TARGETS_MAX = 200  # hosts that are told of one run by name; further ones are counted together, as OTHERS
OTHERS = "*"
REMEMBERED = 8  # ids: some proxies at a time may tell of the same target

Target = tuple[str, int, str]  # host, port, code


def store(reported: Sequence[ReportedDenial]) -> None:
    """Store denials, one run after the other. They may be reported again: what is known is not counted twice."""
    by_run: dict[uuid.UUID, list[ReportedDenial]] = defaultdict(list)
    for denial in reported:
        by_run[denial.run].append(denial)
    runs = Run.objects.select_related("session").in_bulk(by_run)
    for run_id, denials in by_run.items():
        if run_id in runs:
            _store(runs[run_id], denials)


@transaction.atomic
def _store(run: Run, reported: list[ReportedDenial]) -> None:
    session = event_log.lock_session(run.session_id)
    rows = {(row.host, row.port, row.code): row for row in EgressDenial.objects.filter(run=run)}
    events: list[NewEvent] = []
    for target, denials in _by_target(rows, reported).items():
        new = uncounted(denials, rows[target].recent if target in rows else [])
        if not new:
            continue
        row = rows.setdefault(target, _row(run, target, new[0]))
        before = row.count
        _count(row, new)
        if worth_an_event(before, row.count):
            events.append(_event(row))
        if row.code == "rule" and row.host != OTHERS:
            access_requests.record(run, row.host, row.port, row.count - before, row.last_at)
    if events:
        event_log.append(session, events, run)
        notify.publish_on_commit(session.pk, notify.EVENTS)


def _by_target(known: Iterable[Target], reported: list[ReportedDenial]) -> dict[Target, list[ReportedDenial]]:
    """Denials by target. Beyond TARGETS_MAX of one run, further hosts are one target."""
    targets, found = set(known), defaultdict[Target, list[ReportedDenial]](list)
    for denial in reported:
        target = (denial.host, denial.port, denial.code)
        if target not in targets and len(targets) >= TARGETS_MAX:
            target = (OTHERS, 0, denial.code)
        targets.add(target)
        found[target].append(denial)
    return found


def uncounted(reported: Sequence[ReportedDenial], recent: Sequence[str]) -> list[ReportedDenial]:
    """Those that were not counted yet. Pure.

    A proxy tells in order, and begins again where it had no answer: what stands before something known is known.
    """
    last = max((index for index, denial in enumerate(reported) if denial.id in recent), default=-1)
    return list(reported[last + 1 :])


def worth_an_event(before: int, after: int) -> bool:
    """Whether a count reached another power of ten, the first being 1. Pure."""
    return len(str(after)) > (len(str(before)) if before else 0)


def _row(run: Run, target: Target, first: ReportedDenial) -> EgressDenial:
    host, port, code = target
    reason = "further hosts were refused, which are not told one by one" if host == OTHERS else first.reason
    return EgressDenial(run=run, host=host, port=port, code=code, reason=reason, first_at=first.at, last_at=first.at)


def _count(row: EgressDenial, new: Sequence[ReportedDenial]) -> None:
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
