"""The API of tasks, part of version 1 (`sessions.api`)."""

import uuid
from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest, HttpResponse
from ninja import Field, Router, Schema, Status
from ninja.errors import HttpError
from pydantic import AfterValidator

from groups import times
from groups.models import AgentProfile
from schedules import cron, execute, service
from schedules.choices import Context, Kind
from schedules.models import BY_KIND, ScheduledTask
from sessions.api import pagination
from sessions.api.access import actor, find_group, once, user_of
from sessions.lifecycle.intake import InvalidRequest
from sessions.models import AgentSession

router = Router()
Moment = Annotated[datetime, AfterValidator(times.bounded)]


class TaskChange(Schema):
    """What can be said of a task. Of `cron`, `every_seconds` and `once_at` give one; of `session` and `profile` too."""

    name: str = Field("", max_length=80)
    prompt: str = ""
    cron: str | None = Field(None, description="Five fields, such as `0 9 * * 1-5`")
    every_seconds: int | None = Field(None, description="An interval, at least 60", le=2**31 - 1)
    once_at: Moment | None = Field(None, description="Without an offset it is read by the clocks of `time_zone`")
    time_zone: str = Field("UTC", description="Such as `Europe/Berlin`")
    session: uuid.UUID | None = Field(None, description="The session whose context it continues each time")
    profile: str | None = Field(None, description="What a fresh session runs each time: a profile's slug")
    max_failures: int = Field(5, description="It pauses itself after so many failures in a row", ge=1, le=1000)


class NewTask(TaskChange):
    """A task to be made."""

    prompt: str = Field(description="What the agent is told each time")


class TaskOut(Schema):
    """A task. Times are null where there is none; `reason` says why it is paused."""

    id: str
    group: str
    name: str
    prompt: str
    kind: str
    cron: str | None
    every_seconds: int | None
    once_at: datetime | None
    time_zone: str
    session: str | None
    profile: str | None
    state: str
    reason: str
    next_at: datetime | None
    last_at: datetime | None
    last_session: str | None = Field(description="Where it last ran")
    last_message: int | None = Field(description="The number of its message there")
    outcome: str | None = Field(description="Of the last run: pending, answered, failed or cancelled")
    outcome_words: str
    failures: int = Field(description="In a row")
    max_failures: int
    skipped: int = Field(description="Times passed over because the last run was not over")


class TaskDetail(TaskOut):
    """A task, and its next five times."""

    next_times: list[datetime]


def _summary(task: ScheduledTask) -> dict[str, Any]:
    last = task.last_message
    plain = ["name", "prompt", "kind", "every_seconds", "once_at", "time_zone", "state", "reason", "next_at", "last_at"]
    plain += ["outcome_words", "failures", "max_failures", "skipped"]
    return {field: getattr(task, field) for field in plain} | {
        "id": str(task.pk),
        "group": task.group.slug,
        "cron": task.cron or None,
        "session": str(task.session_id) if task.session_id else None,
        "profile": task.profile.slug if task.profile else None,
        "last_session": str(last.session_id) if last else None,
        "last_message": last.number if last else None,
        "outcome": task.outcome or None,
    }


def _detail(task: ScheduledTask) -> dict[str, Any]:
    return _summary(task) | {"next_times": [at for at, _ in task.next_times]}


def _find_task(request: HttpRequest, task_id: uuid.UUID, write: bool = False) -> ScheduledTask:
    """The task, if the caller may see it; 403 if they see it and may not write."""
    rows = ScheduledTask.objects.visible_to(user_of(request)).select_related("group", "profile", "last_message")
    task = rows.filter(pk=task_id).first()
    if task is None:
        raise HttpError(404, "There is no such task, or it is not yours.")
    if write and not ScheduledTask.objects.writable_by(user_of(request)).filter(pk=task_id).exists():
        raise HttpError(403, "You may read this task. Ask an owner of its group for the role of a member.")
    return task


def _apply(request: HttpRequest, task: ScheduledTask, values: dict[str, Any]) -> None:
    """Write values into a task that is not saved yet. Raises InvalidRequest."""
    for field in ("name", "prompt", "time_zone", "max_failures"):
        setattr(task, field, values.get(field, getattr(task, field)))
    whens = [kind for kind, field in BY_KIND.items() if values.get(field) is not None]
    if len(whens) > 1 or (not whens and task._state.adding):
        raise InvalidRequest("cron", "Give one of cron, every_seconds and once_at.")
    if whens:
        task.kind = whens[0]
        setattr(task, BY_KIND[whens[0]], values[BY_KIND[whens[0]]])
    if task.kind == Kind.ONCE and whens and task.once_at and task.once_at.tzinfo is None:
        try:
            task.once_at = cron.instant(task.once_at, times.zone(task.time_zone))
        except ValueError as error:
            raise InvalidRequest("time_zone", str(error)) from error
    wheres = [field for field in ("session", "profile") if values.get(field) is not None]
    if len(wheres) > 1 or (not wheres and task._state.adding):
        raise InvalidRequest("profile", "Give a session to continue, or the profile of a fresh one.")
    if wheres == ["session"]:
        task.context = Context.SESSION
        task.session = AgentSession.objects.visible_to(user_of(request)).filter(pk=values["session"]).first()
        if task.session is None:
            raise InvalidRequest("session", "There is no such session, or it is not yours.")
    elif wheres:
        task.context = Context.FRESH
        task.profile = AgentProfile.objects.filter(slug=values["profile"]).first()
        if task.profile is None:
            raise InvalidRequest("profile", f"There is no profile {values['profile']!r}.")


@router.get("/groups/{slug}/tasks", response=list[TaskOut], summary="The tasks of a group")
def list_tasks(
    request: HttpRequest, response: HttpResponse, slug: str, offset: int = 0, limit: int = 500
) -> list[dict[str, Any]]:
    """Those that are due next first: no more than about 1 MiB, and a header `Link` tells where it goes on."""
    tasks = ScheduledTask.objects.filter(group=find_group(request, slug)).order_by("next_at", "created_at", "pk")
    tasks = tasks.select_related("group", "profile", "last_message").defer("last_message__text")
    return [
        _summary(task)
        for task in pagination.by_offset(request, response, tasks, offset, limit, "prompt", "reason", "outcome_words")
    ]


@router.post("/groups/{slug}/tasks", response={201: TaskDetail}, summary="Make a task")
def create_task(request: HttpRequest, slug: str, body: NewTask) -> Status[Any]:
    """It is active at once. It is made once per `Idempotency-Key`."""
    group = find_group(request, slug, change="tasks")

    def make() -> str:
        task = ScheduledTask(group=group, created_by=user_of(request))
        _apply(request, task, body.dict(exclude_unset=True))
        return str(service.store(task, **actor(request)).pk)

    return Status(201, _detail(_find_task(request, uuid.UUID(once(request, body, make)))))


@router.get("/tasks/{uuid:task_id}", response=TaskDetail, summary="A task")
def get_task(request: HttpRequest, task_id: uuid.UUID) -> dict[str, Any]:
    """With its next five times."""
    return _detail(_find_task(request, task_id))


@router.patch("/tasks/{uuid:task_id}", response=TaskDetail, summary="Change a task")
def change_task(request: HttpRequest, task_id: uuid.UUID, body: TaskChange) -> dict[str, Any]:
    """Only what is said changes. A new schedule counts from now."""
    task = _find_task(request, task_id, write=True)
    _apply(request, task, body.dict(exclude_unset=True))
    service.store(task, **actor(request))
    return _detail(_find_task(request, task_id))


@router.delete("/tasks/{uuid:task_id}", response={204: None}, summary="Remove a task")
def remove_task(request: HttpRequest, task_id: uuid.UUID) -> Status[Any]:
    """Its sessions stay."""
    service.remove(_find_task(request, task_id, write=True), **actor(request))
    return Status(204, None)


@router.post("/tasks/{uuid:task_id}/pause", response=TaskDetail, summary="Pause a task")
def pause_task(request: HttpRequest, task_id: uuid.UUID) -> dict[str, Any]:
    """It is not due until it is resumed."""
    service.pause(_find_task(request, task_id, write=True), **actor(request))
    return _detail(_find_task(request, task_id))


@router.post("/tasks/{uuid:task_id}/resume", response=TaskDetail, summary="Resume a task")
def resume_task(request: HttpRequest, task_id: uuid.UUID) -> dict[str, Any]:
    """It is due again, from now on; failures are forgiven."""
    service.resume(_find_task(request, task_id, write=True), **actor(request))
    return _detail(_find_task(request, task_id))


@router.post("/tasks/{uuid:task_id}/run", response={202: TaskDetail}, summary="Run a task now")
def run_task(request: HttpRequest, task_id: uuid.UUID) -> Status[Any]:
    """Whatever its state; its next time stays. It runs once per `Idempotency-Key`."""
    task = _find_task(request, task_id, write=True)
    once(request, None, lambda: str(execute.run_now(task, **actor(request)).pk))
    return Status(202, _detail(_find_task(request, task_id)))
