"""The runtime that the settings name, made once per process."""

from functools import cache

from django.conf import settings

from k8s_adapter.runtime import Runtime


@cache
def get(name: str) -> Runtime:
    """The runtime called `local` or `kubernetes`. The cluster's client is imported only where it is used."""
    if name == "local":
        from k8s_adapter.local import LocalRuntime

        return LocalRuntime(settings.DATA_DIR, settings.INSTALLATION)
    if name == "kubernetes":
        from k8s_adapter.cluster import KubernetesConfig, KubernetesRuntime

        return KubernetesRuntime(
            KubernetesConfig(
                installation=settings.INSTALLATION,
                courier_image=settings.COURIER_IMAGE,
                shared_namespace=settings.K8S_NAMESPACE,
                storage_class=settings.K8S_STORAGE_CLASS,
                openshift=settings.K8S_OPENSHIFT,
                image_pull_policy=settings.K8S_IMAGE_PULL_POLICY,
            )
        )
    raise ValueError(f"no runtime is called {name!r}")
