"""What an agent asks about tasks, in NanoClaw's words: `schedule_task`, `pause_task`, `resume_task`, `cancel_task`.

A request is a row that was stored with its event. It is answered and deleted in one transaction, so it is handled once.
Both answers are events that people see; a refusal is a message to the agent too, within bounds that no loop of
requests and refusals gets past.
"""

import json
import uuid
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import OperationalError, transaction
from django.db.models import Q
from django.utils import timezone

from groups import times
from groups.models import AgentGroup
from groups.texts import storable_data
from schedules import cron, service
from schedules.choices import Context, Kind
from schedules.models import ScheduledTask, TaskRequest
from sessions.choices import EventKind
from sessions.courier_api import ingest
from sessions.lifecycle import intake
from sessions.lifecycle.intake import InvalidRequest
from sessions.models import AgentSession, Message

log = structlog.get_logger(__name__)
WORDS_MAX = 500  # characters of a refusal, which may quote what the agent wrote
REPLIES_MAX = 5  # refusals that a run is told of, and a session without anybody else's word between them
TITLES = {
    "schedule_task": "schedule a task",
    "pause_task": "pause a task",
    "resume_task": "resume a task",
    "cancel_task": "cancel a task",
}
OWN_ONLY = "an agent may only do this for its own group"


def handle_up_to(request_id: int) -> None:
    """Handle a request, and before it every earlier one of its session, so that they take effect in their order.

    Each is handled by whoever finds it first: another worker waits for its row, and then finds it gone. Requests of a
    session are numbered in the order of its events, under the session's lock.
    """
    session = TaskRequest.objects.filter(pk=request_id).values("session")
    up_to = TaskRequest.objects.filter(session__in=session, pk__lte=request_id).order_by("pk")
    while (first := up_to.values_list("pk", flat=True).first()) is not None:
        try:
            handle(first)
        except OperationalError:
            raise
        except Exception:
            log.exception("an agent's request failed", request=first)
            give_up(first, "Berth failed to handle it.")


def handle(request_id: int) -> bool:
    """Do what a request asks, or refuse it; say so. False if it was handled already."""
    with transaction.atomic():
        request = TaskRequest.objects.select_for_update(of=("self",)).filter(pk=request_id).first()
        if request is None:
            return False
        try:
            with transaction.atomic():
                words, data = _carry_out(request)
        except InvalidRequest as error:
            _refuse(request, str(error))
        else:
            ingest.record(request.session_id, [(EventKind.STATE, words, data)])
        request.delete()
    return True


def give_up(request_id: int, words: str) -> None:
    """Refuse a request that can't be handled at all. It goes even if nobody can be told: later ones wait behind it."""
    with transaction.atomic():
        request = TaskRequest.objects.select_for_update().filter(pk=request_id).first()
        if request is None:
            return
        try:
            with transaction.atomic():
                _refuse(request, words)
        except OperationalError:
            raise
        except Exception:
            log.exception("an agent's request was dropped without a word", request=request_id)
        request.delete()


def _refuse(request: TaskRequest, words: str) -> None:
    title = TITLES.get(str(_parse(request.text).get("type")), "change the scheduled tasks")
    words = f"Your request to {title} was refused: {words[:WORDS_MAX]}"
    ingest.record(request.session_id, [(EventKind.STATE, words.replace("Your", "The agent's", 1), {"refused": True})])
    if _may_reply(request):
        try:
            with transaction.atomic():
                intake.post_message(request.session, words, sender=None, key=f"task:{request.run_id}:{request.pk}")
        except InvalidRequest:
            return  # its profile can't run any more: there is nobody to tell


def _may_reply(request: TaskRequest) -> bool:
    """Whether the agent is told: not too often in one run, nor in a session to which nobody else speaks."""
    messages = Message.objects.filter(session_id=request.session_id)
    ours = Q(idempotency_key__startswith="task:")
    last = messages.exclude(ours & Q(idempotency_key__isnull=False)).order_by("-number").first()
    since = messages.filter(ours, number__gt=last.number if last else 0).count()
    of_run = messages.filter(idempotency_key__startswith=f"task:{request.run_id}:").count()
    return since < REPLIES_MAX and of_run < REPLIES_MAX


def _carry_out(request: TaskRequest) -> tuple[str, dict[str, Any]]:
    """Carry a request out; return what to say. Raises InvalidRequest."""
    payload = _parse(request.text)
    if not payload:
        raise InvalidRequest("type", "it is no JSON object.")
    session = request.session
    if session.group.deleted_at:
        raise InvalidRequest("group", "the group was deleted.")
    by = f"the agent of {session}"[:150]
    kind = payload.get("type")
    if not isinstance(kind, str) or kind not in TITLES:
        raise InvalidRequest("type", f"there is no {repr(kind)[:50]} here. Use {', '.join(TITLES)}.")
    if kind == "schedule_task":
        task = service.store(_new_task(payload, session), by=by)
        next_at = f"{task.next_at:%Y-%m-%d %H:%M:%S}"
        words = f"Scheduled “{task}”: {task.schedule_text}, next at {next_at} UTC. Its id is {task.pk}."
        return words, {"task": str(task.pk), "next_at": task.next_at.isoformat() if task.next_at else None}
    task = _find_task(payload.get("taskId"), session)
    data = {"task": str(task.pk)}
    if kind == "pause_task":
        return f"{'Paused' if service.pause(task, by=by) else 'Paused already:'} the task “{task}”.", data
    if kind == "resume_task":
        return f"{'Resumed' if service.resume(task, by=by) else 'Active already:'} the task “{task}”.", data
    service.remove(task, by=by)
    return f"Cancelled the task “{task}”.", data


def _parse(text: str) -> dict[str, Any]:
    """A request as an object, whose texts a database can hold; empty if it is none."""
    try:
        value = storable_data(json.loads(text))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _new_task(payload: dict[str, Any], session: AgentSession) -> ScheduledTask:
    """The task that an agent describes, not saved. Raises InvalidRequest."""
    group, target = _target(payload, session)
    prompt = payload.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise InvalidRequest("prompt", "it has no prompt.")
    agents_id = str(payload.get("taskId") or "")[:100]
    task = ScheduledTask(group=group, prompt=prompt, agents_id=agents_id, time_zone=_time_zone(session))
    task.name = prompt.strip().partition("\n")[0][:80]
    _set_schedule(task, payload.get("schedule_type"), str(payload.get("schedule_value") or "").strip())
    if payload.get("context_mode", "group") == "group" and target:
        task.context, task.session = Context.SESSION, target
    elif payload.get("context_mode", "group") in ("group", "isolated"):
        task.context, task.profile = Context.FRESH, session.profile
    else:
        raise InvalidRequest("context_mode", "context_mode is group or isolated.")
    return task


def _time_zone(session: AgentSession) -> str:
    """The time zone of the agent's own clock. Raises InvalidRequest."""
    try:
        return times.clock(session.profile.environment.get("TZ", ""))
    except ValueError as error:
        raise InvalidRequest("TZ", f"the profile's variable TZ can't be read here, ask an operator. {error}") from None


def _set_schedule(task: ScheduledTask, kind: Any, value: str) -> None:
    """Set a task's schedule from NanoClaw's type and value. Raises InvalidRequest."""
    if kind not in Kind.values:
        raise InvalidRequest("schedule_type", "schedule_type is cron, interval or once.")
    task.kind = Kind(kind)
    if kind == Kind.CRON:
        task.cron = value[:100]
    elif kind == Kind.INTERVAL:
        if not (value.isascii() and value.isdecimal() and len(value) < 15):
            raise InvalidRequest(
                "schedule_value", f"{value[:50]!r} is no interval. Use milliseconds, such as 3600000 for 1 h."
            )
        task.every_seconds = int(timedelta(milliseconds=int(value)).total_seconds())
    else:
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            words = f"{value[:50]!r} is no time. Use a local time such as 2030-02-01T15:30:00."
            raise InvalidRequest("schedule_value", words) from None
        try:
            times.bounded(at)
        except ValueError as error:
            raise InvalidRequest("schedule_value", str(error)) from None
        task.once_at = at if at.tzinfo else cron.instant(at, times.zone(task.time_zone))
        if task.once_at <= timezone.now():
            raise InvalidRequest("schedule_value", f"{value[:50]} ({task.time_zone}) is over.")


def _target(payload: dict[str, Any], session: AgentSession) -> tuple[AgentGroup, AgentSession | None]:
    """The group that a task is for, and the session whose context it may use. Raises InvalidRequest.

    NanoClaw names a chat, which is a session here; a group's slug will do too.
    """
    name = str(payload.get("targetJid") or payload.get("groupFolder") or session.pk)
    if name in (str(session.pk), session.group.slug):
        return session.group, session
    found = AgentSession.objects.select_related("group").filter(pk=_uuid(name)).first()
    group = found.group if found else AgentGroup.objects.filter(slug=name, deleted_at=None).first()
    if not session.group.is_main and (group is None or group.pk != session.group_id):
        raise InvalidRequest("targetJid", f"{OWN_ONLY}.")
    if group is None:
        raise InvalidRequest("targetJid", f"there is no group {name[:50]!r}.")
    return group, found


def _find_task(name: Any, session: AgentSession) -> ScheduledTask:
    """The task of that id, Berth's or the agent's own. Raises InvalidRequest."""
    tasks = ScheduledTask.objects.select_related("group")
    if not session.group.is_main:
        tasks = tasks.filter(group_id=session.group_id)
    if isinstance(name, str) and name:
        found = list(tasks.filter(Q(pk=_uuid(name)) | Q(agents_id=name))[:100])
        # Groups choose their own names, so two may have the same.
        found.sort(key=lambda task: (str(task.pk) != name, task.group_id != session.group_id))
        if found:
            return found[0]
    raise InvalidRequest("taskId", f"there is no task {str(name)[:50]!r} here; {OWN_ONLY}.")


def _uuid(text: str) -> uuid.UUID:
    """The id that `text` is; if it is none, one that nothing has."""
    try:
        return uuid.UUID(text)
    except ValueError:
        return uuid.UUID(int=0)
