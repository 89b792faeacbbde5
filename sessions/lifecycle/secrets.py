"""What a run gets in /var/secrets: its profile's references as far as they were granted, and stand-ins for keys.

Values are read by the runtime, which alone can look into a cluster, and are nowhere in rows, payloads or specs. Only
the stand-ins are made here: they are worth nothing outside of the credential broker (`broker/`).
"""

import time
import uuid
from collections.abc import Mapping

import structlog
from django.conf import settings
from django.utils import timezone

from groups.choices import Provider
from groups.models import AgentGroup, BrokeredKey, SecretReference, SecretUse
from groups.providers import MODEL_APIS
from runtimes.base import Cause, GroupRef, PermanentFault, Runtime, RuntimeFault, SecretFile, TransientFault
from sessions.lifecycle import run_tokens, runtime_factory
from sessions.models import Run

log = structlog.get_logger(__name__)
BROKER = "broker:"  # how the source of a stand-in for a provider's key begins
RENEW_EVERY = 15.0  # seconds between two reads of a run's sources by one process
_renewed_at: dict[uuid.UUID, float] = {}  # run → when (monotonic) this process last renewed


def of_run(run: Run) -> tuple[SecretFile, ...]:
    """The secrets of a run, by file name. Raises PermanentFault MOUNT, which names the one that it may not have."""
    profile, group = run.session.profile, run.session.group
    wanted = {file: source.removeprefix("ref:") for file, source in profile.secrets.items()}
    known = SecretReference.objects.in_bulk(set(wanted.values()), field_name="name")
    files = []
    for file, name in wanted.items():
        if not profile.secrets[file].startswith("ref:"):
            raise PermanentFault(Cause.MOUNT, f"secret {file!r}: the profile must say ref:NAME, not where the value is")
        if name not in known:
            raise PermanentFault(Cause.MOUNT, f"secret {file!r}: there is no secret {name}")
        if refusal := known[name].refusal(group, profile):
            raise PermanentFault(Cause.MOUNT, refusal)
        files.append(SecretFile(file, known[name].source))
    sources = {key.file_name: BROKER + provider for provider, key in brokered(run).items()}
    files += [SecretFile(file, source, stand_in(run, source)) for file, source in sources.items()]
    return tuple(sorted(files, key=lambda file: file.name))


def stand_in(run: Run, source: str) -> str:
    """The value that the control plane makes for a run; empty for a source that the runtime reads."""
    return run_tokens.mint_broker(run.pk) if source.startswith(BROKER) else ""


def environment(run: Run) -> dict[str, str]:
    """What tells the clients of model APIs that they are to talk to the broker."""
    found = {}
    for provider in brokered(run):
        api = MODEL_APIS[Provider(provider)]
        found[api.variable] = f"{settings.COURIER_URL}/broker/v1/{provider}{api.client_path}"
    return found


def without_broker(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what tells of the broker: that follows from the grants of keys."""
    broker = f"{settings.COURIER_URL}/broker/"
    return {name: value for name, value in environment.items() if not value.startswith(broker)}


def brokered(run: Run) -> dict[str, BrokeredKey]:
    """Provider → the key that the broker uses for a run.

    A profile that says itself where the API is, or brings the key's file, goes past the broker for that provider.
    """
    profile = run.session.profile
    return {
        provider: key
        for provider, key in BrokeredKey.objects.for_run(run.session.group, profile).items()
        if MODEL_APIS[Provider(provider)].variable not in profile.environment and key.file_name not in profile.secrets
    }


def record_use(run: Run) -> None:
    """Note that a run got its secrets."""
    names = [source.removeprefix("ref:") for source in run.session.profile.secrets.values()]
    for reference in SecretReference.objects.filter(name__in=names):
        SecretUse.objects.update_or_create(
            reference=reference, group=run.session.group, defaults={"last_at": timezone.now()}
        )


def renew(run: Run, runtime: Runtime) -> None:
    """Deliver what changed of a living run's secrets, at most every RENEW_EVERY seconds. Raises nothing.

    What can't be read now, or is no longer granted, stays as it is: the agent has read it already.
    """
    now = time.monotonic()
    if now - _renewed_at.get(run.pk, -RENEW_EVERY) < RENEW_EVERY:
        return
    if len(_renewed_at) > 10_000:  # runs that are over
        _renewed_at.clear()
    _renewed_at[run.pk] = now
    try:
        files = of_run(run)
        if files and runtime.renew(run.ref, files):
            log.info("secrets renewed", session=str(run.session_id), run=str(run.pk))
    except RuntimeFault as fault:
        log.warning("secrets not renewed", session=str(run.session_id), run=str(run.pk), words=str(fault))


def unreadable_reason(reference: SecretReference, group: AgentGroup) -> str:
    """Why a secret can't be read for agents of a group now, in words without its value; empty if it can."""
    try:
        read(reference, group, settings.RUNTIME)
    except TransientFault as fault:
        return f"can't tell now: {fault}"
    except PermanentFault as fault:
        return str(fault)
    return ""


def read(reference: SecretReference, group: AgentGroup, runtime: str) -> bytes:
    """A secret's value, as agents of a group would get it. Raises the runtime's faults; never show what it returns."""
    ref = GroupRef(str(group.pk), group.slug)
    return runtime_factory.get(runtime).secret(ref, SecretFile(reference.name, reference.source))
