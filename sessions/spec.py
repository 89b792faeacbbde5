"""From rows to the plain RunSpec that a runtime is handed."""

from django.conf import settings

from k8s_adapter.runtime import Resources, RunSpec, SecretFile
from sessions import tokens
from sessions.models import Run


def build(run: Run) -> RunSpec:
    """The spec of a run. The same rows give the same spec, so that a second `ensure` adopts what the first one made."""
    session, profile = run.session, run.session.profile
    return RunSpec(
        ref=run.ref,
        number=run.number,
        image=profile.image,
        command=tuple(profile.command),
        contract=profile.contract,
        courier_url=settings.COURIER_URL,
        token=tokens.mint(run.id),
        environment=dict(profile.environment),
        resume=run.resume,
        state_folder=profile.state_folder,
        resources=Resources(cpu_millis=profile.cpu_millis, memory_mib=profile.memory_mib),
        secrets=tuple(SecretFile(name, source) for name, source in sorted(profile.secrets.items())),
        deadline_seconds=deadline(run),
        storage_gib=session.group.storage_gib,
        main=session.group.is_main,
    )


def deadline(run: Run) -> int:
    """The run's hard wall clock, in seconds."""
    return run.session.profile.deadline_seconds or settings.DEADLINE_SECONDS
