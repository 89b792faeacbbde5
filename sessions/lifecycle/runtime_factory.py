"""The runtime that the settings name, made once per process."""

from functools import cache
from pathlib import Path

from django.conf import settings

from groups.models.secrets import allowed_sources
from runtimes.base import Runtime


@cache
def get(name: str) -> Runtime:
    """The runtime called `local` or `kubernetes`. The cluster's client is imported only where it is used."""
    if name == "local":
        from runtimes.local.programs import Confinement
        from runtimes.local.runtime import LocalRuntime

        token = settings.EGRESS_TOKEN_FILE
        confinement = Confinement(
            readable=tuple(map(Path, settings.LOCAL_BWRAP_FOLDERS)),
            hidden=(Path(token),) if token else (),
            as_root=settings.LOCAL_BWRAP_ROOT,
        )
        return LocalRuntime(
            settings.DATA_DIR,
            settings.INSTALLATION,
            secrets=allowed_sources(),
            confinement=confinement if settings.LOCAL_BWRAP else None,
        )
    if name == "kubernetes":
        from k8s_adapter.config import KubernetesConfig, pod_selector
        from k8s_adapter.runtime import KubernetesRuntime

        return KubernetesRuntime(
            KubernetesConfig(
                installation=settings.INSTALLATION,
                courier_image=settings.COURIER_IMAGE,
                courier_url=settings.COURIER_URL,
                control_plane=pod_selector(settings.K8S_CONTROL_PLANE_SELECTOR),
                egress_url=settings.EGRESS_PROXY_URL,
                egress=pod_selector(settings.K8S_EGRESS_SELECTOR),
                dns=pod_selector(settings.K8S_DNS_SELECTOR),
                shared_namespace=settings.K8S_NAMESPACE,
                storage_class=settings.K8S_STORAGE_CLASS,
                openshift=settings.K8S_OPENSHIFT,
                image_pull_policy=settings.K8S_IMAGE_PULL_POLICY,
                secrets=allowed_sources(),
            )
        )
    raise ValueError(f"no runtime is called {name!r}")
