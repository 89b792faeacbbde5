"""From rows to the plain RunSpec that a runtime is handed."""

from django.conf import settings

from groups.models import AgentProfile
from k8s_adapter.runtime import ClaimSource, FolderSource, MountSource, PodOptions, Resources, RunSpec
from sessions import berths, mounts, secrets, tokens, way_out
from sessions.models import Run


def build(run: Run) -> RunSpec:
    """The spec of a run. The same rows give the same spec, so that a second `ensure` adopts what the first one made.

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
        token=tokens.mint(run.id),
        environment=profile.environment | secrets.environment(run),
        resume=run.resume,
        state_folder=profile.state_folder,
        resources=Resources(cpu_millis=profile.cpu_millis, memory_mib=profile.memory_mib),
        secrets=secrets.of_run(run),
        deadline_seconds=deadline(run),
        storage_gib=session.group.storage_gib,
        main=session.group.is_main,
        mounts=mounts.of_run(run),
        project=project(run) if session.group.is_main else None,
        egress=way_out.access(run),
        pod=pod(profile),
        quota=berths.quota(session.group),
    )


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
    return run.session.profile.deadline_seconds or settings.DEADLINE_SECONDS
