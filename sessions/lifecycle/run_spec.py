"""From rows to the plain RunSpec that a runtime is handed, and what a run was started with.

A living run is judged by the spec it was started with. So it is stored on its row, without secrets, before the runtime
is asked for the first time; what an operator changes afterwards counts from the next run on.
"""

from dataclasses import asdict, fields, is_dataclass, replace
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import structlog
from django.conf import settings

from groups.models import AgentProfile
from runtimes.base import Cause, ClaimSource, FolderSource, MountSource, PermanentFault, PodOptions, Resources, RunSpec
from sessions.lifecycle import egress_access, mounts, namespaces, run_tokens, secrets
from sessions.models import Run

log = structlog.get_logger(__name__)
LIMITS = ("start_seconds", "idle_seconds", "turn_seconds")  # of a profile; the deadline is part of the spec
# What of a spec is not its profile's: whose it is. What a group may use together may change at any time.
OWNERS = {"mounts": "mounts", "project": "mounts", "secrets": "secrets", "main": "group", "storage_gib": "group"}
PER_RUN = ("ref", "number", "token", "courier_url", "resume", "egress", "quota", "stop_grace_seconds")


def build(run: Run) -> RunSpec:
    """The spec of a run as the rows are now. The same rows give the same spec.

    Raises PermanentFault MOUNT for a mount or secret that the run may not have.
    """
    session, profile = run.session, run.session.profile
    return RunSpec(
        ref=run.ref,
        number=run.number,
        image=profile.image,
        command=tuple(profile.command),
        contract=profile.contract,
        courier_url=settings.COURIER_URL,
        token=run_tokens.mint(run.id),
        environment=profile.environment | secrets.environment(run),
        resume=run.resume,
        state_folder=profile.state_folder,
        resources=Resources(cpu_millis=profile.cpu_millis, memory_mib=profile.memory_mib),
        secrets=secrets.of_run(run),
        deadline_seconds=_limit_now(run, "deadline_seconds"),
        storage_gib=session.group.storage_gib,
        main=session.group.is_main,
        mounts=mounts.of_run(run),
        project=project(run) if session.group.is_main else None,
        egress=egress_access.of_run(run),
        pod=pod(profile),
        quota=namespaces.quota(session.group),
    )


def of_run(run: Run) -> RunSpec:
    """What a run was started with, or what it is started with now, which is stored then.

    Until the runtime has all of it, what it may have is judged at each try. Raises as `build` does, and if a mount or
    secret is another one by now.
    """
    stored = _stored_spec(run)
    if stored is not None and run.made_at is not None:
        return stored
    built = build(run)
    if stored is not None:
        if (stored.mounts, stored.secrets) != (built.mounts, built.secrets):
            raise PermanentFault(Cause.MOUNT, "what it may mount or read was changed while it was being started")
        _update_limits(run)
        return stored
    if run.spec is None and run.made_at is None:
        values = _as_json(built) | {name: limit(run, name) for name in LIMITS}
        if not Run.objects.filter(pk=run.pk, spec__isnull=True).update(spec=values):  # another process was first
            run.refresh_from_db(fields=["spec"])
            return _stored_spec(run) or built
        run.spec = values
    return built


def _update_limits(run: Run) -> None:
    """Until the runtime has all of a run, its limits are its profile's: a start may wait for long."""
    values = (run.spec or {}) | {name: limit(run, name) for name in LIMITS}
    if values != run.spec:
        run.spec = values
        Run.objects.filter(pk=run.pk, made_at=None).update(spec=values)


def changes_since_start(run: Run) -> str:
    """What was changed since a run was started, as a sentence for people; empty if nothing was."""
    before = _stored_spec(run)
    if before is None:
        return ""
    try:
        now = build(run)
    except PermanentFault as fault:
        return f"What it may have has changed since this run started ({fault}): it counts from the next run on."
    were, are = _comparable(before), _comparable(now)
    whose = {OWNERS.get(name, "profile") for name in were if were[name] != are[name]}
    if any(limit(run, name) != _limit_now(run, name) for name in LIMITS):
        whose.add("profile")
    if not whose:
        return ""
    *first, last = sorted(whose)
    what = f"{', '.join(first)} and {last}" if first else last
    verb = "have" if first or last.endswith("s") else "has"
    return f"The {what} {verb} changed since this run started: it counts from the next run on."


def pod(profile: AgentProfile) -> PodOptions:
    """What the profile says of its pods."""
    return PodOptions(
        runtime_class=profile.runtime_class,
        node_selector=dict(profile.node_selector),
        tolerations=tuple(profile.tolerations),
        patch=dict(profile.pod_patch),
        dns=profile.dns,
    )


def project(run: Run) -> MountSource | None:
    """The project folder, which the main group sees, where the run's runtime has it."""
    if run.runtime == "kubernetes":
        return ClaimSource(settings.PROJECT_CLAIM) if settings.PROJECT_CLAIM else None
    return FolderSource(settings.PROJECT_FOLDER) if settings.PROJECT_FOLDER else None


def deadline(run: Run) -> int:
    """The run's hard wall clock, in seconds."""
    return limit(run, "deadline_seconds")


def limit(run: Run, name: str) -> int:
    """A limit of the run, in seconds, as it was when the run was started; as it is now while the runtime lacks it."""
    stored = run.spec.get(name) if run.made_at is not None and isinstance(run.spec, dict) else None
    return stored if isinstance(stored, int) else _limit_now(run, name)


def _limit_now(run: Run, name: str) -> int:
    own: int | None = getattr(run.session.profile, name)
    default: int = getattr(settings, name.upper())
    return own or default


def _as_json(spec: RunSpec) -> dict[str, Any]:
    """A spec as JSON, without the run's credentials: those are derived again when they are needed."""
    values = asdict(spec)
    del values["token"], values["quota"]
    values["egress"] = spec.egress and {"proxy": spec.egress.proxy}
    values["secrets"] = [{"name": secret.name, "source": secret.source} for secret in spec.secrets]
    return values


def _stored_spec(run: Run) -> RunSpec | None:
    """The spec that is stored of a run; None if there is none, or one that this version can't read."""
    if not run.spec:
        return None
    try:
        values = run.spec | {"token": run_tokens.mint(run.pk)}
        values["egress"] = values["egress"] and values["egress"] | {"credential": run_tokens.mint_egress(run.pk)}
        values["secrets"] = [each | {"value": secrets.stand_in(run, each["source"])} for each in values["secrets"]]
        spec: RunSpec = _read(RunSpec, values)
    except (AttributeError, KeyError, TypeError, ValueError):
        log.warning("a run's spec can't be read", session=str(run.session_id), run=str(run.pk))
        return None
    return replace(spec, quota=namespaces.quota(run.session.group))


def _read(kind: Any, value: Any) -> Any:
    """A value of JSON as the type that it was written from: dataclasses, tuples of them, one of several, or itself."""
    if get_origin(kind) is tuple:
        return tuple(_read(get_args(kind)[0], each) for each in value)
    if get_origin(kind) in (Union, UnionType):
        possible = [each for each in get_args(kind) if is_dataclass(each)]
        fitting = [each for each in possible if value and value.keys() <= {field.name for field in fields(each)}]
        return _read(fitting[0], value) if fitting else None if possible else value
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: _read(hints[name], each) for name, each in value.items() if name in hints})  # type: ignore[operator]
    return value


def _comparable(spec: RunSpec) -> dict[str, Any]:
    """What of a spec people change; what the control plane makes of it for each run is left out."""
    values = _as_json(spec)
    values["environment"] = secrets.without_broker(spec.environment)
    return {name: value for name, value in values.items() if name not in PER_RUN}
